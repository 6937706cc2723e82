"""A threshold that `raycls reject` sets reaches running replicas, and leaves them again."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import requests

from raycls import registry
from raycls.engines.rejection import Rejection
from raycls.serving.control import rollout
from raycls.serving.control.deploy import Served
from raycls.training.filing import TrainingResult
from tests.predict import encoded, samples


@pytest.mark.timeout(300)
def test_running_replicas_take_a_threshold_up_and_leave_it(
    served: Served,
    trained: TrainingResult,
    post: Callable[..., requests.Response],
) -> None:
    assert trained.version is not None
    version = trained.version
    rejects_all = Rejection(
        precision=0.9, threshold=1.0, engine="torch", dataset="digits", images=100, answered=0, right=0
    )
    usual = post(encoded(1))
    assert "rejected" not in usual.json()
    assert "rejection" not in requests.get(f"{served.url}/health", timeout=10).json()

    assert rollout.reject(version, rejects_all)
    rejected = post(encoded(1))
    assert rejected.json() == {**usual.json(), "rejected": True}
    health = requests.get(f"{served.url}/health", timeout=10).json()
    assert health["rejection"]["threshold"] == 1.0
    assert sum(each.value for each in samples(f"{served.url}/metrics", "raycls_rejected_total")) >= 1

    assert rollout.reject(registry.resolve(version.reference), None)
    again = post(encoded(1))
    assert again.content == usual.content
