"""How many actors there are, and what each takes."""

from __future__ import annotations

import pytest

from raycls import machine
from raycls.scoring.workers import shared_out

HERE = {"label_selector": {"ray.io/node-id": "abc"}}


def test_an_actor_of_one_thread_for_each_cpu() -> None:
    found = shared_out(6, 0, {})
    assert (found.count, found.device, found.threads, found.options) == (6, "cpu", 1, {"num_cpus": 1})
    assert found.listing == {"num_cpus": 0}


@pytest.mark.parametrize(
    ("cpus", "gpus", "count", "threads"), [(16, 1, 8, 2), (16, 4, 16, 1), (4, 1, 4, 1), (1, 2, 2, 1)]
)
def test_a_gpu_is_shared_by_actors_that_share_the_cpus(
    cpus: int, gpus: int, count: int, threads: int
) -> None:
    found = shared_out(cpus, gpus, {})
    assert (found.count, found.device, found.threads) == (count, "cuda", threads)
    assert found.count * found.options["num_gpus"] == gpus
    assert found.options["num_cpus"] == threads


def test_files_of_this_machine_are_scored_on_it_also_on_a_head_without_cpus() -> None:
    found = shared_out(0, 0, HERE)
    assert (found.count, found.options) == (machine.cores(), {"num_cpus": 0, **HERE})
    assert found.listing == {"num_cpus": 0, **HERE}
