"""The application of a challenger: its network behind a Serve handle, which the champion's replicas call.

    raycls experiment start pets --challenger pets/7 --shadow 0.2

It has no HTTP route. It is a deployment of its own, so that nothing it does stops a prediction.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ray import serve
from ray.serve import Application
from ray.serve.exceptions import RayServeException

from raycls import registry
from raycls.config import validated
from raycls.engines.predictor import Prediction
from raycls.errors import RayclsError
from raycls.serving.replica.inference import Inference
from raycls.serving.settings import ServingConfig


def build(args: dict[str, Any]) -> Application:
    """Return the application for `args`, the fields of ServingConfig. Raises RayServeException."""
    try:
        config = validated(ServingConfig, args)
        version = registry.resolve(config.model)
        registry.checkpoint(version)
    except RayclsError as error:
        raise RayServeException(f"raycls: {error}") from None
    return Challenger.bind(config, version)  # type: ignore[attr-defined]


@serve.deployment
class Challenger:
    """One replica of a challenger."""

    def __init__(self, config: ServingConfig, version: registry.ModelVersion):
        self.version = version
        self.inference = Inference(config, version, serve.get_replica_context().replica_id.unique_id)

    async def describe(self) -> tuple[str, tuple[str, ...]]:
        """Return the version, as answers name it, and its classes in the order of the probabilities."""
        return self.version.version, self.inference.predictor.card.classes

    async def classify(self, images: list[bytes]) -> tuple[list[int], np.ndarray]:
        """Return the positions of the images that can be read, and their probabilities (float32 M×C)."""
        outcomes = await self.inference.run(images, lambda: True)
        answers = [(i, o.probabilities) for i, o in enumerate(outcomes) if isinstance(o, Prediction)]
        rows = [row for _, row in answers]
        classes = len(self.inference.predictor.card.classes)
        return [i for i, _ in answers], np.stack(rows) if rows else np.empty((0, classes), np.float32)

    def check_health(self) -> None:
        """Raise where the forward pass hangs. Serve calls it, and replaces a replica that raises."""
        self.inference.check_health()
