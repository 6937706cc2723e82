"""How many actors score, and what each of them takes of the cluster.

    workers = choose(local=True)
    workers.count, workers.options

On CPUs, an actor takes one core and computes with one thread: several processes of one thread do more than one process
of several. Where there are GPUs, several actors share each of them, and the machine's cores decode for it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from raycls import machine
from raycls.config import Engine
from raycls.engines.build import Device

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
    cpus = int(sum(node["Resources"].get("CPU", 0) for node in nodes))
    gpus = int(sum(node["Resources"].get("GPU", 0) for node in nodes))
    if engine and engine.startswith("openvino"):
        gpus = 0
    return shared_out(cpus, gpus, {"label_selector": {NODE: here}} if local else {})


def shared_out(cpus: int, gpus: int, where: dict[str, Any]) -> Workers:
    """Return the actors for so many CPUs and GPUs. where: options of Ray that say on which nodes.

    A node without CPUs for tasks is a head, which then uses its cores all the same: nobody else has the files.
    """
    # The listing waits for names, and takes no core from the scoring.
    listing = {"num_cpus": 0, **where}
    if gpus:
        each = max(1, min(ACTORS_PER_GPU, cpus // gpus))
        cores = max(1, cpus // (gpus * each))
        return Workers(
            gpus * each, "cuda", cores, {"num_cpus": cores, "num_gpus": 1 / each, **where}, listing
        )
    if not cpus:
        return Workers(machine.cores(), "cpu", 1, {"num_cpus": 0, **where}, listing)
    return Workers(cpus, "cpu", 1, {"num_cpus": 1, **where}, listing)
