"""How many workers train, and with which CPUs and GPUs each.

ScalingConfig(**scaling_of(None, batch_size=2000))
"""

from __future__ import annotations

import time
from typing import Any

from raycls import home, progress
from raycls.data import sharing
from raycls.data.packed import PackedDataset
from raycls.errors import UsageError
from raycls.training.streaming import THREADS

# The smallest number of images of a batch for each worker, if --workers is not given.
IMAGES_PER_WORKER = {"CPU": 250, "GPU": 32}
CPUS_OF_GPU = 1 + THREADS  # of a worker with a GPU, at most
FIT_S = 2  # in which Ray finds room for the workers, where there is any
RELEASE_S = 5  # how long to wait until the processes of a study that has just ended release their CPUs


def scaling_of(workers: int | None, batch_size: int, use_gpu: bool | None = None) -> dict[str, Any]:
    """Return the arguments of Ray's ScalingConfig: one worker per GPU, or the free CPU cores divided among the workers.

    The default is one worker per free GPU or, without GPUs, per free core. But each worker gets at least
    IMAGES_PER_WORKER images of a batch. On CPUs, many processes are better than many threads: processes synchronise
    once a step, threads at every layer, so other work on the machine delays processes less.

    use_gpu: True asks Ray for a GPU for each worker, also for those that no node has yet: an autoscaler brings them.
    False: CPUs alone. Raises UsageError for more workers than CPUs.
    """
    import ray

    if use_gpu:
        return _on_gpus(workers or 1)
    total = int(ray.cluster_resources().get("CPU", 1))
    deadline = time.monotonic() + RELEASE_S
    while int((free := ray.available_resources()).get("CPU", 0)) < total and time.monotonic() < deadline:
        time.sleep(0.2)
    gpus, cpus = 0 if use_gpu is False else int(free.get("GPU", 0)), int(free.get("CPU", 0))
    if gpus and (workers or gpus) <= gpus:
        count = workers or max(1, min(gpus, batch_size // IMAGES_PER_WORKER["GPU"]))
        return _with_gpus(count, cpus)
    if (workers or 1) > total:
        raise UsageError(f"--workers {workers} is more than the cluster's {total} CPUs")
    if gpus:
        progress.say(f"training on CPUs: --workers {workers} is more than the {gpus} GPUs that are free")
    if cpus < max(workers or 1, total):
        progress.say(
            f"{cpus} of the cluster's {total} CPUs are free: other work, like serving, holds the rest"
        )
    count = workers or max(1, min(cpus, batch_size // IMAGES_PER_WORKER["CPU"]))
    each = max(1, cpus // count)
    nodes = [int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"]]
    while each > 1 and sum(cores // each for cores in nodes) < count:
        each -= 1  # all cores of a worker must be on one node
    while len(nodes) > 1 and each > 1 and not _fit(count, {"CPU": each}):
        each //= 2  # other work holds some of them; few tries, as each takes seconds
    return {"num_workers": count, "resources_per_worker": {"CPU": each}}


def on_one_node(scaling: dict[str, Any]) -> bool:
    """Return whether the workers of this ScalingConfig run on one node: there is no other, and none will be brought."""
    import ray

    total = ray.cluster_resources()
    wanted = {"GPU": 1.0} if scaling.get("use_gpu") else {}
    wanted |= scaling.get("resources_per_worker", {})
    enough = all(total.get(kind, 0) >= each * scaling["num_workers"] for kind, each in wanted.items())
    return enough and sum(node["Alive"] for node in ray.nodes()) == 1


def share_with_nodes(dataset: PackedDataset) -> None:
    """Push the dataset to the storage path, if there is one, for nodes that lack it. Raises as `sharing.push`."""
    if home.shared_storage():
        sharing.push(dataset)


def _fit(workers: int, resources: dict[str, float]) -> bool:
    """Return whether the nodes have these free for each worker: all that a worker has must be on one node."""
    from ray.util import placement_group, remove_placement_group

    group = placement_group([resources] * workers)
    try:
        return bool(group.wait(timeout_seconds=FIT_S))
    finally:
        remove_placement_group(group)


def _on_gpus(workers: int) -> dict[str, Any]:
    """Return the arguments for a GPU for each worker. Say so where the cluster has too few at this moment."""
    import ray

    has = int(ray.cluster_resources().get("GPU", 0))
    if workers > has:
        progress.say(
            f"the cluster has {has} GPUs now and the training needs {workers}: Ray is asked for them, and the training "
            "waits until nodes bring them; Ctrl-C ends it, --no-gpu trains on CPUs"
        )
        return _scaling(workers, 1)  # a node with GPUs has more CPUs than GPUs
    return _with_gpus(workers, int(ray.available_resources().get("CPU", 0)))


def _with_gpus(workers: int, cpus: int) -> dict[str, Any]:
    """Return the arguments for a GPU for each worker, with up to CPUS_OF_GPU of the free CPUs beside it.

    One calls the GPU, and threads gather the next batches. Where other work, like serving, holds the CPUs, a worker has
    none of its own and shares them.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    beside = [int(node.get("CPU", 0) // node["GPU"]) for node in nodes if node.get("GPU")]
    each = min([CPUS_OF_GPU, cpus // workers, *beside])
    while len(nodes) > 1 and each > 0 and not _fit(workers, {"CPU": each, "GPU": 1}):
        each -= 1  # those of a node are held by other work
    return _scaling(workers, each)


def _scaling(workers: int, cpus: int) -> dict[str, Any]:
    resources = {"CPU": cpus, "GPU": 1} if cpus else {"GPU": 1}
    return {"num_workers": workers, "use_gpu": True, "resources_per_worker": resources}
