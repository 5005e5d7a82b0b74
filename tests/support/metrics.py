"""Reads values of metrics."""

from __future__ import annotations

from collections.abc import Iterable

from orqal.actors.metrics import Family


def value(families: Iterable[Family], sample: str, **labels: str) -> float | None:
    """The value of the sample with this name and exactly these labels; None if there is none."""
    found = [
        each.value for family in families for each in family.samples if (each.name, each.labels) == (sample, labels)
    ]
    assert len(found) < 2, found
    return found[0] if found else None


def total(families: Iterable[Family], sample: str, **labels: str) -> float:
    """The sum of all samples with this name and these labels among others."""
    return sum(
        each.value
        for family in families
        for each in family.samples
        if each.name == sample and labels.items() <= each.labels.items()
    )
