"""How many actors score, and what each of them takes of the cluster.

    workers = choose(local=True)
    workers.count, workers.options

On CPUs, an actor takes one core and computes with one thread: several processes of one thread do more than one process
of several. Where there are GPUs, several actors share each of them, and the machine's cores decode for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from raycls import machine
from raycls.config import Engine
from raycls.engines.build import Device, running
from raycls.errors import UsageError

ACTORS_PER_GPU = 8  # at most: each holds the model, and some 0.5 GB for itself
NODE = "ray.io/node-id"  # the label that Ray gives each node


@dataclass(frozen=True)
class Workers:
    """threads: of an actor's decoding. options: of Ray, for an actor. listing: of Ray, for the task that lists."""

    count: int
    device: Device
    threads: int = 1
    options: dict[str, Any] = field(default_factory=dict)
    listing: dict[str, Any] = field(default_factory=dict)


def choose(*, local: bool, engine: Engine | None = None) -> Workers:
    """Return actors for all CPUs and GPUs of the cluster. local: of this node alone, which has the files.

    engine: what they compute with, if that is decided: one of processors takes no GPU.
    """
    import ray

    here = ray.get_runtime_context().get_node_id()
    nodes = [node for node in ray.nodes() if node["Alive"] and (not local or node["NodeID"] == here)]
    cpus, gpus = usable(
        [node["Resources"] for node in nodes], gpus=engine not in ("openvino", "openvino-int8")
    )
    return shared_out(cpus, gpus, {"label_selector": {NODE: here}} if local else {})


def check_runs(engine: Engine, device: Device) -> None:
    """Raise UsageError if the engine that a plan has does not run here, as scores of two engines differ."""
    if engine not in running(device):
        raise UsageError(
            f"these scores were begun with the engine {engine}, which does not run on the {device} of this machine: "
            "go on on a machine like the first one, or write to a new output"
        )


def usable(nodes: Sequence[Mapping[str, float]], *, gpus: bool) -> tuple[int, int]:
    """Return the CPUs and GPUs of nodes that have these resources. gpus: False to count none.

    An actor takes both from one node. So where there are GPUs, only their nodes count, each with as many CPUs for a GPU
    as that of them has which has the fewest.
    """
    with_gpu = [node for node in nodes if gpus and node.get("GPU", 0) >= 1]
    if not with_gpu:
        return int(sum(node.get("CPU", 0) for node in nodes)), 0
    number = sum(int(node["GPU"]) for node in with_gpu)
    return int(min(node.get("CPU", 0) / int(node["GPU"]) for node in with_gpu) * number), number


def shared_out(cpus: int, gpus: int, where: dict[str, Any]) -> Workers:
    """Return the actors for so many CPUs and GPUs. where: options of Ray that say on which nodes.

    A node without CPUs for tasks is a head, which then uses its cores all the same: nobody else has the files.
    """
    # The listing waits for names, and takes no core from the scoring.
    listing = {"num_cpus": 0, **where}
    if gpus:
        each = max(1, min(ACTORS_PER_GPU, cpus // gpus))
        cores = max(1, cpus // (gpus * each))
        taken = cores if cpus >= gpus else 0  # a GPU with less than a core has an actor all the same
        return Workers(
            gpus * each, "cuda", cores, {"num_cpus": taken, "num_gpus": 1 / each, **where}, listing
        )
    if not cpus:
        return Workers(machine.cores(), "cpu", 1, {"num_cpus": 0, **where}, listing)
    return Workers(cpus, "cpu", 1, {"num_cpus": 1, **where}, listing)
