"""How many workers train on what a cluster has, and what is asked for where it has too little."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import ray

from raycls.errors import UsageError
from raycls.training import scaling
from raycls.training.scaling import on_one_node, scaling_of

Has = Callable[..., None]


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch) -> Has:
    """Return a function that sets what the cluster's one node has; all of it is free."""

    def resources(**found: float) -> None:
        monkeypatch.setattr(ray, "cluster_resources", lambda: found)
        monkeypatch.setattr(ray, "available_resources", lambda: found)
        monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": found}])

    return resources


def test_gpus_that_are_there_are_used(has: Has) -> None:
    has(CPU=8, GPU=2)
    with_cpus = {"use_gpu": True, "resources_per_worker": {"CPU": 3, "GPU": 1}}
    assert scaling_of(None, 1000) == {"num_workers": 2, **with_cpus}
    assert scaling_of(1, 1000) == {"num_workers": 1, **with_cpus}
    assert scaling_of(None, 1000, use_gpu=False) == {"num_workers": 4, "resources_per_worker": {"CPU": 2}}


def test_gpus_that_are_not_there_are_asked_for_where_somebody_says_so(
    has: Has, capsys: pytest.CaptureFixture[str]
) -> None:
    has(CPU=2)
    assert scaling_of(None, 1000) == {"num_workers": 2, "resources_per_worker": {"CPU": 1}}
    assert capsys.readouterr().err == ""
    wanted = {"num_workers": 4, "use_gpu": True, "resources_per_worker": {"CPU": 1, "GPU": 1}}
    assert scaling_of(4, 1000, use_gpu=True) == wanted
    assert "has 0 GPUs now and the training needs 4: Ray is asked for them" in capsys.readouterr().err


def test_more_workers_than_cpus_are_refused(has: Has) -> None:
    has(CPU=2)
    with pytest.raises(UsageError, match="more than the cluster's 2 CPUs"):
        scaling_of(3, 1000)


def test_cpus_in_place_of_too_few_gpus_are_said(has: Has, capsys: pytest.CaptureFixture[str]) -> None:
    has(CPU=4, GPU=1)
    assert scaling_of(2, 1000) == {"num_workers": 2, "resources_per_worker": {"CPU": 2}}
    assert "training on CPUs: --workers 2 is more than the 1 GPUs that are free" in capsys.readouterr().err


def test_on_several_nodes_workers_get_what_is_free_on_one(has: Has, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes of two cores with a replica of half a core each: a worker of two cores would wait for ever."""
    has(CPU=3)
    node = {"Alive": True, "Resources": {"CPU": 2}}
    monkeypatch.setattr(ray, "nodes", lambda: [node, node, {"Alive": False, "Resources": {"CPU": 64}}])
    tried = []

    def fit(workers: int, resources: dict[str, float]) -> bool:
        tried.append((workers, resources))
        return resources["CPU"] == 1

    monkeypatch.setattr(scaling, "_fit", fit)
    assert scaling_of(1, 1000) == {"num_workers": 1, "resources_per_worker": {"CPU": 1}}
    assert tried == [(1, {"CPU": 2})]


@pytest.mark.parametrize(
    ("resources", "wanted"),
    [
        ({"CPU": 16, "GPU": 2}, {"CPU": 3, "GPU": 1}),
        ({"CPU": 4, "GPU": 2}, {"CPU": 2, "GPU": 1}),
        ({"CPU": 1, "GPU": 2}, {"GPU": 1}),  # which both share
    ],
)
def test_workers_with_gpus_get_cpus_too(
    has: Has, resources: dict[str, float], wanted: dict[str, float]
) -> None:
    has(**resources)
    expected = {"num_workers": 2, "use_gpu": True, "resources_per_worker": wanted}
    assert scaling_of(2, 1000) == scaling_of(2, 1000, use_gpu=True) == expected


def test_workers_with_gpus_get_the_cpus_of_their_own_nodes(has: Has, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 68 CPUs that are free, 64 are on a node without a GPU, and a replica holds one of the others."""
    has(CPU=67, GPU=1)
    nodes = [{"CPU": 4, "GPU": 1}, {"CPU": 64}]
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True, "Resources": node} for node in nodes])
    monkeypatch.setattr(scaling, "_fit", lambda workers, resources: resources["CPU"] <= 2)
    assert scaling_of(1, 1000)["resources_per_worker"] == {"CPU": 2, "GPU": 1}


def test_other_nodes_matter_where_they_are_there_or_will_be(
    has: Has, monkeypatch: pytest.MonkeyPatch
) -> None:
    two = {"num_workers": 2, "resources_per_worker": {"CPU": 1}}
    has(CPU=2)
    assert on_one_node(two)
    assert not on_one_node(two | {"num_workers": 3})  # an autoscaler brings the rest
    assert not on_one_node({"num_workers": 1, "use_gpu": True})
    monkeypatch.setattr(ray, "nodes", lambda: [{"Alive": True}, {"Alive": True}])
    assert not on_one_node(two)
