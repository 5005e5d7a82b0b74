"""Ids of jobs are those of BSON, and none comes twice."""

from __future__ import annotations

import re
import time
from itertools import pairwise

from bson import ObjectId

from orqal.actors.scheduler.job_ids import job_ids


def test_ids_are_object_ids_of_now_in_order_and_differ_in_each_process() -> None:
    new_id, other = job_ids(), job_ids()
    ids = [new_id() for _ in range(50_000)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{24}", each) for each in ids)
    assert abs(ObjectId(ids[-1]).generation_time.timestamp() - time.time()) < 60
    assert {each[8:18] for each in ids} != {other()[8:18]}
    within = [int(each[18:], 16) for each in ids]
    assert all((after - before) % (1 << 24) == 1 for before, after in pairwise(within))
