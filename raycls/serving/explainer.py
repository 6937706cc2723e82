"""Why a class was answered: a Grad-CAM overlay, made beside the predictions.

    explainer = Explainer(predictor, decode)                         # bytes to uint8 S×S×3, as for predictions
    overlay = await explainer.overlay(encoded, class_index)          # the PNG's bytes

Works on a copy of the network, as Grad-CAM hooks its layers, in one thread of the lowest priority: on a busy core the
forward passes of predictions go first. Copy and captum are paid for by the first who asks.
"""

from __future__ import annotations

import asyncio
import copy
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

from raycls.data.transforms import as_tensor, normalize
from raycls.models.predictor import Predictor
from raycls.serving.http import HTTPProblem

if TYPE_CHECKING:
    from raycls.training.report.attribution import Layer

MOST_WAITING = 16  # explanations; who asks for more is told to come back
LOWEST_PRIORITY = 19


class Explainer:
    """Explains the answers of one predictor, to images that were decoded so."""

    def __init__(self, predictor: Predictor, decode: Callable[[bytes], np.ndarray]):
        self._predictor, self._decode = predictor, decode
        self._thread = ThreadPoolExecutor(1, "explain", initializer=_give_way)
        self._waiting = 0
        self._network: torch.nn.Module | None = None

    async def overlay(self, data: bytes, class_index: int) -> bytes:
        """A PNG: the image, in grey, under the places that spoke for the class. data is an image that was answered.

        Raises HTTPProblem: 400 for a network without convolutions, 429 when too many wait.
        """
        if self._waiting >= MOST_WAITING:
            raise HTTPProblem(
                429, "too many explanations are being made: try again in a moment", {"Retry-After": "1"}
            )
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._overlay, data, class_index)
        finally:
            self._waiting -= 1

    def _overlay(self, data: bytes, class_index: int) -> bytes:
        from raycls.training.report.attribution import cam_layer, grad_cam, spatial_layers
        from raycls.training.report.pictures import overlay, png

        predictor, card = self._predictor, self._predictor.card
        pixels = self._decode(data)
        inputs = normalize(as_tensor(pixels[None]).to(predictor.device), card.mean, card.std)
        if self._network is None:
            self._network = copy.deepcopy(predictor.network)
        layer: Layer | None = cam_layer(spatial_layers(self._network, inputs))
        if layer is None:
            raise HTTPProblem(400, f"{card.network} has no convolutions, so Grad-CAM cannot explain it")
        (heat,) = grad_cam(self._network, inputs, torch.tensor([class_index], device=inputs.device), layer)
        return png(overlay(pixels, heat.numpy()))


def _give_way() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
