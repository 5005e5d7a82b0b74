"""What a benchmark has measured, beside its target: in a table, and in a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One measured value: an entry of build/bench.json and of build/bench-scheduler.json."""

    name: str
    value: float
    unit: str
    target: str | None = None
    met: bool | None = None

    @classmethod
    def at_least(cls, name: str, value: float, unit: str, target: float) -> Figure:
        """A figure that should be large."""
        return cls(name, value, unit, f"at least {target:,g}", value >= target)

    @classmethod
    def at_most(cls, name: str, value: float, unit: str, target: float) -> Figure:
        """A figure that should be small."""
        return cls(name, value, unit, f"at most {target:,g}", value <= target)

    @property
    def amount(self) -> str:
        """The value with its unit. A ratio has none."""
        value = f"{self.value:,.0f}" if abs(self.value) >= 1_000 else f"{self.value:.4g}"
        return value if self.unit == "ratio" else f"{value} {self.unit}"


def show(figures: Sequence[Figure], console: Console) -> None:
    """Print a table of the figures."""
    table = Table("measure", "value", "target", "met")
    table.columns[1].justify = "right"
    marks = {True: "[green]yes[/]", False: "[red]no[/]", None: ""}
    for figure in figures:
        table.add_row(figure.name, figure.amount, figure.target or "", marks[figure.met])
    console.print(table)


def write(figures: Sequence[Figure], file: Path) -> None:
    """Write the figures as JSON."""
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n")
