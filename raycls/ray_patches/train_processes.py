"""Ray Train without the processes that have nothing to do here.

    LeanTrainer(work, train_loop_config=task, …, on_one_node=True, poll_s=2).fit()

Every Ray process takes seconds to start and wakes a hundred times a second while the workers compute (a check for
signals in Ray's core worker, which no setting changes). Left out are the manager of Ray Data's shards, as raycls brings
datasets of its own; the guard that frees the workers' resources when Ray Train's controller is killed, which the end
of the driver does as well (a trial's driver ends before: see `free`); and on a single node the preemption watcher, the
metrics for a dashboard, and the coordinator that asks for further nodes.
"""

from __future__ import annotations

import os
from typing import Any

from ray._raylet import PlacementGroupID
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_put
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.torch.torch_trainer import TorchTrainer
from ray.util.placement_group import PlacementGroup, remove_placement_group

ONE_NODE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_METRICS_ENABLED": "0"}


class OneNodePolicy(FixedScalingPolicy):
    """The workers that were asked for, of whom nothing need be known to who could bring further nodes."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class _Noted(WorkerGroupCallback):
    """Writes down where the workers' resources are held, for `free`."""

    def __init__(self, name: str):
        self._name = name

    def after_worker_group_start(self, worker_group: Any) -> None:
        handle = worker_group.get_worker_group_state().placement_group_handle
        _internal_kv_put(_key(self._name), handle.placement_group.id.hex())


def free(name: str) -> None:
    """Give back what the workers of the run of this name still hold, where its controller was killed."""
    held = _internal_kv_get(_key(name))
    if held:
        remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(held.decode()))))
        _internal_kv_del(_key(name))


def _key(name: str) -> str:
    return f"raycls/held/{name}"


class LeanTrainer(TorchTrainer):
    """A TorchTrainer with the fewest processes.

    on_one_node: no other node can join. poll_s: seconds between two looks at the workers. The controller fetches their
    reports then, and a report waits until the one before was fetched; but a look takes time from the workers. name:
    what `free` knows the run by, needed where its driver may end before the process that started the cluster.
    """

    def __init__(
        self, *arguments: Any, on_one_node: bool, poll_s: float, name: str | None = None, **options: Any
    ):
        super().__init__(*arguments, **options)
        self._on_one_node, self._name = on_one_node, name
        os.environ |= {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(poll_s), **(ONE_NODE if on_one_node else {})}

    def _create_default_callbacks(self) -> list[Any]:
        unused = (DatasetsCallback, PlacementGroupCleanerCallback)
        kept = [c for c in super()._create_default_callbacks() if not isinstance(c, unused)]
        return [*kept, _Noted(self._name)] if self._name else kept

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        if self._on_one_node:
            options["scaling_policy"] = OneNodePolicy(options["scaling_policy"].scaling_config)
        return super()._initialize_and_run_controller(**options)
