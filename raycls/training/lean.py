"""Ray Train without the processes that have nothing to do here.

    LeanTrainer(work, train_loop_config=task, …, on_one_node=True, poll_s=2).fit()

Every Ray process takes seconds to start and wakes a hundred times a second while the workers compute (a check for
signals in Ray's core worker, which no setting changes). Left out are the manager of Ray Data's shards, as raycls brings
datasets of its own; the guard that frees the workers' resources when Ray Train's controller is killed, which the end of
the driver does as well; and on a single node the preemption watcher, the metrics for a dashboard, and the coordinator
that asks for further nodes.
"""

from __future__ import annotations

import os
from typing import Any

from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.scaling_policy.fixed import FixedScalingPolicy
from ray.train.v2.torch.torch_trainer import TorchTrainer

ONE_NODE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_METRICS_ENABLED": "0"}


class OneNodePolicy(FixedScalingPolicy):
    """The workers that were asked for, of whom nothing need be known to who could bring further nodes."""

    def after_controller_start(self, train_run_context: Any) -> None:
        pass

    def _maybe_send_resource_request(self) -> None:
        pass


class LeanTrainer(TorchTrainer):
    """A TorchTrainer with the fewest processes.

    on_one_node: no other node can join. poll_s: seconds between two looks at the workers. The controller fetches their
    reports then, and a report waits until the one before was fetched; but a look takes time from the workers.
    """

    def __init__(self, *arguments: Any, on_one_node: bool, poll_s: float, **options: Any):
        super().__init__(*arguments, **options)
        self._on_one_node = on_one_node
        os.environ |= {"RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": str(poll_s), **(ONE_NODE if on_one_node else {})}

    def _create_default_callbacks(self) -> list[Any]:
        unused = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [c for c in super()._create_default_callbacks() if not isinstance(c, unused)]

    def _initialize_and_run_controller(self, **options: Any) -> Any:
        if self._on_one_node:
            options["scaling_policy"] = OneNodePolicy(options["scaling_policy"].scaling_config)
        return super()._initialize_and_run_controller(**options)
