"""The deployment of a challenger: its network behind a Serve handle and a socket, which the champion's replicas call.

    raycls experiment start pets --challenger pets/7 --shadow 0.2

It has no HTTP route. It is a deployment of its own, so that nothing it does stops a prediction.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import time

import numpy as np
import ray
from ray import serve

from raycls import registry
from raycls.engines.predictor import Prediction
from raycls.errors import EngineError
from raycls.serving.images_socket import Answers, Door, open_door
from raycls.serving.replica.challenger_link import Answering
from raycls.serving.replica.inference import GARBAGE_THRESHOLD, Inference
from raycls.serving.settings import ServingConfig

logger = logging.getLogger("ray.serve")


@serve.deployment
class Challenger:
    """One replica of a challenger."""

    def __init__(self, config: ServingConfig, version: registry.ModelVersion):
        self.version = version
        self._door: asyncio.Future[Door] | None = None
        gc.set_threshold(GARBAGE_THRESHOLD, *gc.get_threshold()[1:])
        replica = serve.get_replica_context().replica_id.unique_id
        # Drift is that of the images, and the champion's replicas watch it.
        config = config.model_copy(update={"drift": False})
        try:
            self.inference = Inference(config, version, replica, own_core=False)
        except EngineError as error:  # the champion's engine may not take this network
            logger.warning(f"the challenger runs on the engine torch: {error}")
            config = config.model_copy(update={"engine": "torch"})
            self.inference = Inference(config, version, replica, own_core=False)

    async def describe(self) -> tuple[Answering, str, Door]:
        """Return what answers, this node's id, and where this replica takes images from the same node."""
        if self._door is None:
            self._door = asyncio.ensure_future(open_door(self.classify))
        node = ray.get_runtime_context().get_node_id()
        predictor = self.inference.predictor
        answering = Answering(self.version.version, predictor.card.classes, predictor.limits)
        return answering, node, await self._door

    async def classify(self, images: list[bytes]) -> Answers:
        """Return the answers for the readable images. Their seconds are those from the call to the answers."""
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
