"""The progress of work on this machine that has several steps: bars in a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from time import monotonic
from types import TracebackType

from orqal.cli.show import say
from orqal.client import Progress, progress_bar

LINE_PERIOD = 10.0
"""Seconds between two lines about the same step."""


class StepBars:
    """Progress bars on stderr, one after another."""

    def __init__(self, unit: str) -> None:
        """`unit`: the unit of what is counted in each step."""
        self._unit = unit
        self._bar: Progress | None = None
        self._bars = ExitStack()
        self._counted: int | None = None
        """What the last step without a total has counted. It is the total of later steps without one."""

    def __enter__(self) -> StepBars:
        return self

    def __call__(self, step: str, done: int, total: int | None = None) -> None:
        """Show how much of this step is done. `total`: None if it is not known."""
        if self._bar is None or self._bar.what != step:
            self.end()
            self._bar = self._bars.enter_context(
                progress_bar(step, self._counted if total is None else total, show=True, unit=self._unit)
            )
        self._bar.update(done, total)

    def end(self) -> None:
        """End the present step, so that something else can be printed."""
        self._complete_step()
        self._bars.close()
        self._bar = None

    def _complete_step(self) -> None:
        if self._bar is not None and self._bar.total is None:
            self._counted = self._bar.done
            self._bar.update(self._bar.done, self._bar.done)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._complete_step()
        self._bars.close()


class StepLines:
    """Lines on stderr: where each step begins and ends, and every LINE_PERIOD in between."""

    def __init__(self, unit: str) -> None:
        """`unit`: the unit of what is counted in each step."""
        self._unit = unit
        self._step: str | None = None
        self._line, self._shown = "", ""
        """The latest line about the step, and the last one that was printed."""
        self._printed_at = 0.0

    def __enter__(self) -> StepLines:
        return self

    def __call__(self, step: str, done: int, total: int | None = None) -> None:
        """Show how much of this step is done. `total`: None if it is not known."""
        if step != self._step:
            self.end()
            self._step, self._printed_at = step, monotonic() - LINE_PERIOD
        of_total = "" if total is None else f" of {total:,}"
        self._line = step if total == 1 else f"{step}: {done:,}{of_total} {self._unit}"
        if monotonic() - self._printed_at >= LINE_PERIOD:
            self._print()

    def end(self) -> None:
        """End the present step, so that something else can be printed."""
        self._print()
        self._step = None

    def _print(self) -> None:
        if self._line != self._shown:
            say(self._line, "dim")
            self._shown, self._printed_at = self._line, monotonic()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()


def shown_steps(unit: str) -> StepBars | StepLines:
    """Return what shows the progress of steps on stderr. `unit`: the unit of what is counted in each step."""
    return StepBars(unit) if sys.stderr.isatty() else StepLines(unit)
