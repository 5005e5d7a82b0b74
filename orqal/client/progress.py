"""Bars that show how far a work is, in a terminal or a notebook."""

from __future__ import annotations

import html
import sys
from importlib import import_module
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Task
    from rich.text import Text


class Progress:
    """How far a work is. This one shows nothing; its subclasses are bars in a terminal or a notebook."""

    def __init__(self, what: str, total: int) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self.failed = 0
        self._begun = monotonic()

    def advance(self, *, failed: bool = False) -> None:
        """One more is done."""
        self.done += 1
        self.failed += failed

    @property
    def rate(self) -> float:
        """How many a second, so far."""
        return self.done / max(monotonic() - self._begun, 0.001)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


class _TerminalProgress(Progress):
    """A bar on stderr: done of total, failed, rate, time left."""

    def __enter__(self) -> Progress:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            ProgressColumn,
            TextColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bar
        from rich.text import Text

        outer = self

        class Figures(ProgressColumn):
            def render(self, task: Task) -> Text:
                text = Text(f"{outer.rate:,.1f}/s")
                if outer.failed:
                    text = Text.assemble((f"{outer.failed:,} failed", "red"), "  ", text)
                return text

        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            Figures(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            refresh_per_second=5,
        )
        self._task = self._bar.add_task(self.what, total=self.total)
        self._bar.start()
        return self

    def advance(self, *, failed: bool = False) -> None:
        super().advance(failed=failed)
        self._bar.advance(self._task)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class _NotebookProgress(Progress):
    """A bar in the output of a notebook's cell: plain HTML, so that it needs no widgets."""

    def __enter__(self) -> Progress:
        display = import_module("IPython.display")
        self._html = display.HTML
        self._shown = monotonic()
        self._handle = display.display(self._html(self._text()), display_id=True)
        return self

    def _text(self) -> str:
        left = (self.total - self.done) / self.rate if self.done else 0
        parts = [f"{self.done:,} of {self.total:,}", f"{self.rate:,.1f}/s"]
        if self.failed:
            parts.insert(1, f'<span style="color:#c00">{self.failed:,} failed</span>')
        if left:
            parts.append(f"{int(left) // 60}:{int(left) % 60:02} left")
        bar = f'<progress value="{self.done}" max="{max(self.total, 1)}"></progress>'
        return f"<div>{html.escape(self.what)} {bar} {' · '.join(parts)}</div>"

    def _show(self) -> None:
        if self._handle is not None:
            self._handle.update(self._html(self._text()))

    def advance(self, *, failed: bool = False) -> None:
        super().advance(failed=failed)
        if monotonic() - self._shown > 0.2:
            self._shown = monotonic()
            self._show()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show()


def progress_bar(what: str, total: int, show: bool | None = None) -> Progress:
    """What shows how far a work is. `show`: None is a bar in a notebook or a terminal, else nothing."""
    if show is False or total == 0:
        return Progress(what, total)
    ipython = sys.modules.get("IPython")
    if ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None:
        return _NotebookProgress(what, total)
    return _TerminalProgress(what, total) if show or sys.stderr.isatty() else Progress(what, total)
