"""What is requested from an autoscaler: scenes, and any queue."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orqal.models import Resources, Shape
from orqal.scheduling import Host, LineKey, NodeType, Planner, Queue, demand, node_types
from orqal.scheduling.demand import AT_MOST, Bundle

GPU = frozenset({("gpu", "a100")})
SMALL = NodeType(Host("small", Resources.of(4, 8)), 3)
LARGE = NodeType(Host("large", Resources.of(16, 64), labels=dict(GPU)), 2)


def waiting(*lines: tuple[int, Shape]) -> Queue:
    queue = Planner().queue
    for number, (count, shape) in enumerate(lines):
        for job in range(count):
            queue.push(f"{number} {job}", LineKey("u", shape))
    return queue


def test_without_waiting_jobs_or_types_nothing_is_requested() -> None:
    assert demand(Planner().queue, [SMALL], [Resources.of(1, 1)]) == []
    assert demand(waiting((5, Shape(1, 1))), [], []) == []


def test_waiting_jobs_are_requested_in_addition_to_running_ones() -> None:
    runs, waits = Bundle(Resources.of(2, 1)), Bundle(Resources.of(1, 1))
    assert demand(waiting((2, Shape(1, 1))), [SMALL], [runs.resources]) == [runs, waits, waits]


def test_jobs_that_fit_no_type_are_not_requested() -> None:
    assert demand(waiting((1, Shape(5, 1)), (1, Shape(1, 1, GPU))), [SMALL], []) == []
    assert demand(waiting((1, Shape(5, 1)), (1, Shape(1, 1, GPU))), [SMALL, LARGE], []) == [
        Bundle(Resources.of(5, 1)),
        Bundle(Resources.of(1, 1), GPU),
    ]


def test_a_job_for_a_whole_host_requests_the_smallest_type() -> None:
    assert demand(waiting((1, Shape(None, None))), [LARGE, SMALL], []) == [Bundle(Resources.of(4, 8))]


def test_a_cancelled_job_is_not_requested() -> None:
    queue = waiting((3, Shape(1, 1)))
    queue.remove("0 1")
    assert len(demand(queue, [SMALL], [])) == 2


def test_no_more_is_requested_than_could_ever_be_started() -> None:
    assert len(demand(waiting((100_000, Shape(1, 1))), [SMALL], [])) == 12
    many = NodeType(SMALL.host, 10**6)
    assert len(demand(waiting((5_000, Shape(1, 1))), [many], [])) == AT_MOST


@given(
    st.lists(
        st.tuples(
            st.integers(0, 30),
            st.builds(
                Shape,
                st.sampled_from([None, 0.5, 1, 4, 16, 17]),
                st.sampled_from([None, 1, 64]),
                st.sampled_from([frozenset(), GPU]),
                st.just(()),
            ),
        )
    ),
    st.lists(st.sampled_from([SMALL, LARGE])),
)
def test_each_bundle_fits_on_a_type(lines: list[tuple[int, Shape]], types: list[NodeType]) -> None:
    for bundle in demand(waiting(*lines), types, []):
        assert any(
            bundle.resources.fits(kind.host.capacity) and bundle.labels <= kind.host.labels.items() for kind in types
        )


CLUSTER = {
    "max_workers": 8,
    "head_node_type": "head",
    "available_node_types": {
        "head": {"resources": {"threads": 4}},
        "plain": {"resources": {"threads": 4, "ram_gb": 16.5}, "max_workers": 2},
        "gpu": {"resources": {"threads": 8, "ram_gb": 32}, "labels": {"gpu": "a100"}},
        "no host": {"resources": {"CPU": 4}},
    },
}


def test_the_node_types_of_a_cluster_file() -> None:
    plain, gpu = node_types(CLUSTER)
    assert (plain.host.id, plain.host.capacity, plain.max_workers) == ("plain", Resources.of(4, 16.5), 2)
    assert (gpu.host.labels, gpu.max_workers) == ({"gpu": "a100"}, 8)
    assert node_types({"provider": {"type": "local"}}) == []


@pytest.mark.parametrize("kind", [{"resources": {"threads": "many"}}, {"resources": 5}, {"labels": 5, "resources": {}}])
def test_a_cluster_file_that_is_not_one(kind: object) -> None:
    with pytest.raises(ValueError, match="odd"):
        node_types({"available_node_types": {"odd": kind}})
    with pytest.raises(ValueError, match="mapping"):
        node_types({"available_node_types": [kind]})
