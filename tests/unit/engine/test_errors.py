"""Errors of a daemon, as actors raise them to each other."""

from __future__ import annotations

import pickle

import pytest

from orqal.engine.errors import EngineError, Unreachable
from orqal.models import ErrorType


@pytest.mark.parametrize(
    "error", [EngineError(ErrorType.IMAGE_NOT_FOUND, "none", 127, passing=True), Unreachable("no answer")]
)
def test_an_error_is_the_same_in_another_process(error: EngineError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
