"""The deployment of a challenger: its network behind a Serve handle, which the champion's replicas call.

    raycls experiment start pets --challenger pets/7 --shadow 0.2

It has no HTTP route. It is a deployment of its own, so that nothing it does stops a prediction.
"""

from __future__ import annotations

import logging
import time

import numpy as np
from ray import serve

from raycls import registry
from raycls.engines.predictor import Prediction
from raycls.errors import EngineError
from raycls.serving.replica.challenger_link import Answers
from raycls.serving.replica.inference import Inference
from raycls.serving.settings import ServingConfig

logger = logging.getLogger("ray.serve")


@serve.deployment
class Challenger:
    """One replica of a challenger."""

    def __init__(self, config: ServingConfig, version: registry.ModelVersion):
        self.version = version
        replica = serve.get_replica_context().replica_id.unique_id
        # Drift is that of the images, and the champion's replicas watch it.
        config = config.model_copy(update={"drift": False})
        try:
            self.inference = Inference(config, version, replica, own_core=False)
        except EngineError as error:  # the champion's engine may not take this network
            logger.warning(f"the challenger runs on the engine torch: {error}")
            config = config.model_copy(update={"engine": "torch"})
            self.inference = Inference(config, version, replica, own_core=False)

    async def describe(self) -> tuple[str, tuple[str, ...]]:
        """Return the version, as answers name it, and its classes in the order of the probabilities."""
        return self.version.version, self.inference.predictor.card.classes

    async def classify(self, images: list[bytes]) -> Answers:
        """Return the positions of the M readable images, their probabilities (float32 M×C) and embeddings (M×D).

        The last value is the seconds from the call to the answers.
        """
        started = time.perf_counter()
        outcomes = await self.inference.run(images, lambda: True)
        seconds = time.perf_counter() - started
        found = {i: outcome for i, outcome in enumerate(outcomes) if isinstance(outcome, Prediction)}
        if not found:
            return [], np.empty(0, np.float32), np.empty(0, np.float32), seconds
        probabilities = np.stack([prediction.probabilities for prediction in found.values()])
        embeddings = np.stack([prediction.embedding for prediction in found.values()])
        return list(found), probabilities, embeddings, seconds

    def check_health(self) -> None:
        """Raise where the forward pass hangs. Serve calls it, and replaces a replica that raises."""
        self.inference.check_health()
