"""Events from training workers to their driver, through the key-value store of Ray's control service.

    channel = KeyValueChannel("cifar10-…/attempt-1")      # picklable: a worker gets it with its task
    channel.put(["epoch", {"val_accuracy": 0.9}])
    events = channel.take()

Ray's public way is an actor: one more process, which takes seconds to start and wakes a hundred times a second while
the workers compute (`ActorChannel` in raycls/training/events.py, which takes over without the patch). The patch uses
Ray's internal key-value store, which every process of the cluster reaches anyway. A public key-value store in Ray would
make the patch unnecessary.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from raycls.ray_patches.guard import Patch

PATCH = Patch(
    name="key_value_channel",
    library="ray",
    version="2.60.0",
    buys="one process less beside the training workers",
    targets={
        "ray/experimental/internal_kv.py::_internal_kv_put": "b2ee81e426e145ab",
        "ray/experimental/internal_kv.py::_internal_kv_get": "858675bbe433ef20",
        "ray/experimental/internal_kv.py::_internal_kv_del": "a0cefaedf957b3b1",
        "ray/experimental/internal_kv.py::_internal_kv_list": "27fd5b3272ade6dd",
    },
)


@dataclass(frozen=True)
class KeyValueChannel:
    """Events of JSON values under keys that begin with `name`. Make one only where PATCH is usable."""

    name: str

    def put(self, event: Sequence[Any]) -> None:
        """Leave an event for the driver."""
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(f"raycls/{self.name}/{time.time_ns():020d}", json.dumps(event))

    def take(self) -> list[Any]:
        """Return the events since the last call, in order, and remove them."""
        from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_get, _internal_kv_list

        events = []
        for key in sorted(_internal_kv_list(f"raycls/{self.name}/")):
            events.append(json.loads(_internal_kv_get(key)))
            _internal_kv_del(key)
        return events
