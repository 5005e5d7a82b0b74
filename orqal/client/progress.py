"""Progress bars, in a terminal or a notebook."""

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

REFRESH = 0.2
"""Seconds between two updates of what is shown."""


class Progress:
    """The progress of a piece of work. This class shows nothing; its subclasses are bars.

    `what` names the work, and `unit` names what is counted. `total` is None while it is not known.
    """

    def __init__(self, what: str, total: int | None, unit: str = "") -> None:
        self.what = what
        self.total = total
        self.unit = unit
        self.done = 0
        self.failed = 0
        self._begun = monotonic()

    def advance(self, *, failed: bool = False) -> None:
        """Count one more as done."""
        self.failed += failed
        self.update(self.done + 1)

    def update(self, done: int, total: int | None = None) -> None:
        """Set how much is done, and the total if it is known now."""
        self.done = done
        self.total = self.total if total is None else total

    @property
    def rate(self) -> float:
        """How much has been done per second so far."""
        return self.done / max(monotonic() - self._begun, 0.001)

    def _rate_text(self) -> str:
        return f"{self.rate:,.1f} {self.unit}/s" if self.unit else f"{self.rate:,.1f}/s"

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

        progress = self

        class Figures(ProgressColumn):
            def render(self, task: Task) -> Text:
                text = Text(progress._rate_text())
                if progress.failed:
                    text = Text.assemble((f"{progress.failed:,} failed", "red"), "  ", text)
                return text

        self._bar = Bar(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            Figures(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            refresh_per_second=1 / REFRESH,
        )
        self._task = self._bar.add_task(self.what, total=self.total)
        self._bar.start()
        return self

    def update(self, done: int, total: int | None = None) -> None:
        super().update(done, total)
        self._bar.update(self._task, description=self.what, completed=self.done, total=self.total)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()


class _NotebookProgress(Progress):
    """A bar in the output of a notebook's cell. It is plain HTML, so it needs no widgets."""

    def __enter__(self) -> Progress:
        display = import_module("IPython.display")
        self._html = display.HTML
        self._shown = monotonic()
        self._handle = display.display(self._html(self._text()), display_id=True)
        return self

    def _text(self) -> str:
        total = self.total or 0
        seconds = (total - self.done) / self.rate if self.done else 0
        parts = [f"{self.done:,} of {total:,}", self._rate_text()]
        if self.failed:
            parts.insert(1, f'<span style="color:#c00">{self.failed:,} failed</span>')
        if seconds > 0:
            parts.append(f"{int(seconds) // 60}:{int(seconds) % 60:02} left")
        bar = f'<progress value="{self.done}" max="{max(total, 1)}"></progress>'
        return f"<div>{html.escape(self.what)} {bar} {' · '.join(parts)}</div>"

    def _show(self) -> None:
        if self._handle is not None:
            self._handle.update(self._html(self._text()))

    def update(self, done: int, total: int | None = None) -> None:
        super().update(done, total)
        if monotonic() - self._shown > REFRESH:
            self._shown = monotonic()
            self._show()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._show()


def progress_bar(what: str, total: int | None, show: bool | None = None, unit: str = "") -> Progress:
    """Return a progress bar. `show`: None shows it in a notebook or a terminal, and nothing elsewhere."""
    if show is False or total == 0:
        return Progress(what, total, unit)
    ipython = sys.modules.get("IPython")
    if ipython is not None and getattr(ipython.get_ipython(), "kernel", None) is not None:
        return _NotebookProgress(what, total, unit)
    return _TerminalProgress(what, total, unit) if show or sys.stderr.isatty() else Progress(what, total, unit)
