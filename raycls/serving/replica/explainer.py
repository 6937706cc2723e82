"""Why a class was answered: a Grad-CAM overlay, made beside the predictions.

    explainer = Explainer(checkpoint_directory, decode)              # bytes to uint8 S×S×3, as for predictions
    overlays = await explainer.overlays([encoded], [class_index], wanted)    # the PNGs' bytes

Made by an actor of Ray's with PyTorch and captum, which the first who asks has started on the replica's node, and
which ends with the replica. It has the lowest priority: on a busy core the forward passes of predictions go first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raycls.cluster.environment import LOWEST_PRIORITY
from raycls.serving.replica.batching import ClientGone
from raycls.serving.replica.request import HTTPProblem, busy

MOST_WAITING = 16  # explanations; who asks for more is told to come back
MOST_AT_ONCE = 4  # of one request
# The ingress gives a request up after 8, and says less. The first one takes 3 on an idle core.
PATIENCE_S = 6.0
# Before another one is started in place of a process that ended.
AGAIN_S = 10.0

logger = logging.getLogger("ray.serve")


class Explainer:
    """Explains the answers of one checkpoint's network, to images that were decoded so."""

    def __init__(self, directory: Path, decode: Callable[[bytes], np.ndarray]):
        self._directory, self._decode = directory, decode
        self._waiting = 0
        # Of the one whose explanation is made: of those after it, who leaves costs nothing.
        self._turn = asyncio.Lock()
        self._maker: Any = None
        self._ended = -AGAIN_S

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

        Raises HTTPProblem: as `check`, 400 for a network without convolutions, 429 when it takes too long, 503 when
        what makes them ended. ClientGone where `wanted`, asked before each, says no.
        """
        self.check(len(images))
        self._waiting += len(images)
        try:
            async with asyncio.timeout(PATIENCE_S):
                return [
                    await self._overlay(data, class_index, wanted)
                    for data, class_index in zip(images, class_indices, strict=True)
                ]
        except TimeoutError:
            raise busy(f"no explanation was made in {PATIENCE_S:g} s, as predictions go first") from None
        except RayActorError:
            logger.exception("what explains answers ended")
            self._maker, self._ended = None, time.monotonic()
            raise self._away() from None
        finally:
            self._waiting -= len(images)

    async def _overlay(self, data: bytes, class_index: int, wanted: Callable[[], bool]) -> bytes:
        async with self._turn:
            if not wanted():
                raise ClientGone
            if self._maker is None:
                if time.monotonic() < self._ended + AGAIN_S:
                    raise self._away()
                self._maker = await asyncio.to_thread(self._start)
            pixels = await asyncio.to_thread(self._decode, data)
            made = self._maker.overlay.remote(pixels, class_index)
            try:
                overlay: bytes | None = await made
            except asyncio.CancelledError:
                ray.cancel(made)  # those that wait for it would wait for this one, too
                raise
        if overlay is None:
            raise HTTPProblem(400, "the network has no convolutions, so Grad-CAM cannot explain it")
        return overlay

    def _away(self) -> HTTPProblem:
        return HTTPProblem(
            503, "what explains answers ended: its log says why", {"Retry-After": f"{AGAIN_S:.0f}"}
        )

    def _start(self) -> Any:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return ray.remote(num_cpus=0, scheduling_strategy=here)(_OverlayMaker).remote(self._directory)  # type: ignore[call-overload]


class _OverlayMaker:
    """Overlays one after another, in a process of its own."""

    def __init__(self, directory: Path):
        import torch

        from raycls.models import checkpoint

        torch.set_num_threads(1)
        self._network, self._card = checkpoint.load(directory)  # on the CPU: a GPU is not asked for
        self._cam: Any = None
        # Only now: loaded with it, the network might never be ready.
        os.setpriority(os.PRIO_PROCESS, 0, LOWEST_PRIORITY)

    def overlay(self, pixels: np.ndarray, class_index: int) -> bytes | None:
        """A PNG for uint8 S×S×3; None for a network without convolutions."""
        import torch

        from raycls.reports.attribution import cam_of, fed, spatial_layers
        from raycls.reports.pictures import overlay, png

        if self._cam is None:
            layers = spatial_layers(self._network, fed(self._network, self._card, pixels[None]))
            self._cam = cam_of(self._network, self._card, layers)
        if self._cam is None:
            return None
        (heat,) = self._cam(pixels[None], torch.tensor([class_index]))
        return png(overlay(pixels, heat))
