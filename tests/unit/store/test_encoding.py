"""A record is JSON plus the fields that the store keeps itself."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from pydantic import ValidationError

from orqal.store.encoding import decode, encode, seconds
from tests.support.stores import NOON, done, job


@pytest.mark.parametrize("last_hit", [None, NOON + timedelta(microseconds=1)])
def test_the_stores_own_fields_come_back_and_are_not_in_the_json(last_hit: datetime | None) -> None:
    record = done(job(input={"a": [1, None]}, batch="b"))
    full = record.with_store_fields(3, last_hit, "f" * 24)
    assert (full.cache_hits, full.cache_last_hit, full.retried_as) == (3, last_hit, "f" * 24)
    assert encode(full) == encode(record)
    assert decode(encode(full), 3, seconds(last_hit), "f" * 24) == full
    assert decode(encode(full), 0, None, None) == record


def test_the_stores_own_fields_are_validated() -> None:
    with pytest.raises(ValidationError):
        job().with_store_fields(1, None, 7)  # type: ignore[arg-type]
