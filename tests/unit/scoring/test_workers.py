"""How many actors there are, and what each takes."""

from __future__ import annotations

import pytest

from raycls import machine
from raycls.errors import UsageError
from raycls.scoring.workers import check_runs, shared_out, usable

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
    # A GPU with less than a core of its own has an actor all the same.
    assert found.options["num_cpus"] == (threads if cpus >= gpus else 0)


@pytest.mark.parametrize(
    ("nodes", "counted_as"),
    [
        ([{"CPU": 4.0, "GPU": 1.0}, {"CPU": 64.0}], (4, 1)),
        ([{"CPU": 4.0, "GPU": 1.0}, {"CPU": 64.0, "GPU": 2.0}], (12, 3)),
        ([{"CPU": 64.0}, {"CPU": 2.0, "memory": 1e9}], (66, 0)),
        ([{"GPU": 1.0}, {"CPU": 8.0}], (0, 1)),
        ([], (0, 0)),
    ],
)
def test_every_actor_fits_on_a_node(nodes: list[dict[str, float]], counted_as: tuple[int, int]) -> None:
    assert usable(nodes, gpus=True) == counted_as
    found = shared_out(*counted_as, {})
    cpus, share = found.options["num_cpus"], found.options.get("num_gpus", 0)
    room = 0
    for node in nodes:
        fit = [node.get("CPU", 0) // cpus] if cpus else []
        room += int(min([*fit, *([node.get("GPU", 0) // share] if share else [])]))
    assert not nodes or room >= found.count


def test_an_engine_of_processors_takes_no_gpu() -> None:
    assert usable([{"CPU": 4.0, "GPU": 1.0}, {"CPU": 8.0}], gpus=False) == (12, 0)


def test_scores_go_on_only_where_their_engine_runs() -> None:
    check_runs("reference", "cuda")
    check_runs("openvino", "cpu")
    with pytest.raises(
        UsageError, match=r"engine cuda-graphs, which does not run on the cpu .* or write to a new"
    ):
        check_runs("cuda-graphs", "cpu")


def test_files_of_this_machine_are_scored_on_it_also_on_a_head_without_cpus() -> None:
    found = shared_out(0, 0, HERE)
    assert (found.count, found.options) == (machine.cores(), {"num_cpus": 0, **HERE})
    assert found.listing == {"num_cpus": 0, **HERE}
