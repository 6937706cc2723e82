"""Why a class was answered: a Grad-CAM overlay, made beside the predictions.

    explainer = Explainer(predictor, decode)                         # bytes to uint8 S×S×3, as for predictions
    overlays = await explainer.overlays([encoded], [class_index], wanted)    # the PNGs' bytes

Works on a copy of the network, as Grad-CAM hooks its layers, in one thread of the lowest priority: on a busy core the
forward passes of predictions go first. Copy and captum are paid for by the first who asks.
"""

from __future__ import annotations

import asyncio
import copy
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import torch

from raycls.data.transforms import as_tensor, normalize
from raycls.models.predictor import Predictor
from raycls.serving.batching import Unwanted
from raycls.serving.http import RETRY_AFTER_S, HTTPProblem, busy

if TYPE_CHECKING:
    from raycls.training.report.attribution import Layer

MOST_WAITING = 16  # explanations; who asks for more is told to come back
MOST_AT_ONCE = 4  # of one request
PATIENCE_S = 5.0  # the ingress gives a request up after 8, and says less
LOWEST_PRIORITY = 19


class Explainer:
    """Explains the answers of one predictor, to images that were decoded so."""

    def __init__(self, predictor: Predictor, decode: Callable[[bytes], np.ndarray]):
        self._predictor, self._decode = predictor, decode
        self._thread = ThreadPoolExecutor(1, "explain", initializer=_give_way)
        self._waiting = 0
        self._network: torch.nn.Module | None = None
        self._layer: Layer | None = None

    def check(self, count: int) -> None:
        """Raise HTTPProblem where so many are not explained at once: 413, or 429 when too many wait."""
        if count > MOST_AT_ONCE:
            raise HTTPProblem(
                413, f"{count} images to explain in one request; at most {MOST_AT_ONCE} are accepted"
            )
        if self._waiting + count > MOST_WAITING:
            raise busy("too many explanations are being made")

    async def overlays(
        self, images: Sequence[bytes], class_indices: Sequence[int], wanted: Callable[[], bool]
    ) -> list[bytes]:
        """A PNG each: the image, in grey, under the places that spoke for the class. The images are answered ones.

        Raises HTTPProblem: as `check`, 400 for a network without convolutions, 503 when it takes too long. Unwanted
        where `wanted`, asked in the thread before each, says no.
        """
        self.check(len(images))
        self._waiting += len(images)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await asyncio.gather(
                    *[
                        loop.run_in_executor(self._thread, self._overlay, data, class_index, wanted)
                        for data, class_index in zip(images, class_indices, strict=True)
                    ]
                )
        except TimeoutError:
            late = f"no core was free for an explanation in {PATIENCE_S:g} s: predictions go first"
            raise HTTPProblem(503, late, {"Retry-After": str(RETRY_AFTER_S)}) from None
        finally:
            self._waiting -= len(images)

    def _overlay(self, data: bytes, class_index: int, wanted: Callable[[], bool]) -> bytes:
        if not wanted():
            raise Unwanted
        from raycls.training.report.attribution import cam_layer, grad_cam, spatial_layers
        from raycls.training.report.pictures import overlay, png

        predictor, card = self._predictor, self._predictor.card
        pixels = self._decode(data)
        inputs = normalize(as_tensor(pixels[None]).to(predictor.device), card.mean, card.std)
        if self._network is None:
            network = copy.deepcopy(predictor.network)
            self._layer = cam_layer(spatial_layers(network, inputs))
            self._network = network
        if self._layer is None:
            raise HTTPProblem(400, f"{card.network} has no convolutions, so Grad-CAM cannot explain it")
        targets = torch.tensor([class_index], device=inputs.device)
        (heat,) = grad_cam(self._network, inputs, targets, self._layer)
        return png(overlay(pixels, heat.numpy()))


def _give_way() -> None:
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LOWEST_PRIORITY)
