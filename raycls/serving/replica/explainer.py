"""Explanations of answers: Grad-CAM overlays, made in a process beside the predictions.

    explainer = Explainer(checkpoint_directory, decode)              # bytes to uint8 S×S×3, as for predictions
    explained = await explainer.explain([encoded], [class_index], wanted)    # PNGs

A Ray actor with PyTorch and captum makes them. The first request for an explanation starts it on the replica's node,
and it ends with the replica. It has the lowest priority: on a busy core, the forward passes of predictions go first.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ray
from ray.exceptions import RayActorError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raycls.cluster.environment import LOWEST_PRIORITY
from raycls.serving.replica.answer import HTTPProblem, busy
from raycls.serving.replica.batching import ClientGone

MOST_WAITING = 16  # explanations; further requests get 429
MOST_AT_ONCE = 4  # images to explain in one request
# The wait before a new actor replaces one that ended.
AGAIN_S = 10.0

logger = logging.getLogger("ray.serve")


class Explanation(NamedTuple):
    """Two square PNGs of the same view.

    seen: the image as the network sees it, S×S pixels. overlay: in grey, under a heat map of the places that spoke for
    the class; 128×128 pixels or more.
    """

    seen: bytes
    overlay: bytes


class Explainer:
    """Explains the answers of one checkpoint's network. `decode`: encoded bytes to uint8 S×S×3, as for predictions."""

    def __init__(self, directory: Path, decode: Callable[[bytes], np.ndarray]):
        self._directory, self._decode = directory, decode
        self._waiting = 0
        # One explanation at a time: a client that leaves the queue costs nothing.
        self._turn = asyncio.Lock()
        self._maker: Any = None
        self._ended = -AGAIN_S

    def check(self, count: int) -> None:
        """Raise HTTPProblem 413 for too many images in one request, 429 when too many explanations wait."""
        if count > MOST_AT_ONCE:
            raise HTTPProblem(
                413, f"{count} images to explain in one request; at most {MOST_AT_ONCE} are accepted"
            )
        if self._waiting + count > MOST_WAITING:
            raise busy("too many explanations are waiting")

    async def explain(
        self,
        images: Sequence[bytes],
        class_indices: Sequence[int],
        wanted: Callable[[], bool],
        patience_s: float,
    ) -> list[Explanation]:
        """Return an explanation for each image. The first takes 3 s on an idle core.

        The images must be readable. Raises HTTPProblem: as `check`, 400 for a network without convolutions, 429 when it
        takes longer than patience_s, 503 when the explaining process ended. Raises ClientGone where `wanted`, called
        before each image, says no.
        """
        self.check(len(images))
        self._waiting += len(images)
        try:
            async with asyncio.timeout(patience_s):
                return [
                    await self._explain(data, class_index, wanted)
                    for data, class_index in zip(images, class_indices, strict=True)
                ]
        except TimeoutError:
            raise busy(
                f"no explanation was ready in {patience_s:.1f} s, because predictions go first"
            ) from None
        except RayActorError:
            logger.exception("the explaining process ended")
            self._maker, self._ended = None, time.monotonic()
            raise self._away() from None
        finally:
            self._waiting -= len(images)

    async def _explain(self, data: bytes, class_index: int, wanted: Callable[[], bool]) -> Explanation:
        async with self._turn:
            if not wanted():
                raise ClientGone
            if self._maker is None:
                if time.monotonic() < self._ended + AGAIN_S:
                    raise self._away()
                self._maker = await asyncio.to_thread(self._start)
            pixels = await asyncio.to_thread(self._decode, data)
            made = self._maker.explain.remote(pixels, class_index)
            try:
                explanation: Explanation | None = await made
            except asyncio.CancelledError:
                ray.cancel(made)  # explanations that wait for the actor would wait for this one too
                raise
        if explanation is None:
            raise HTTPProblem(400, "the network has no convolutions, so Grad-CAM cannot explain it")
        return explanation

    def _away(self) -> HTTPProblem:
        return HTTPProblem(
            503, "the explaining process ended: its log says why", {"Retry-After": f"{AGAIN_S:.0f}"}
        )

    def _start(self) -> Any:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        return ray.remote(num_cpus=0, scheduling_strategy=here)(_OverlayMaker).remote(self._directory)  # type: ignore[call-overload]


class _OverlayMaker:
    """Makes overlays, one after another, in a process of its own."""

    def __init__(self, directory: Path):
        import torch

        from raycls.models import checkpoint

        torch.set_num_threads(1)
        self._network, self._card = checkpoint.load(directory)  # on the CPU: a GPU is not asked for
        self._cam: Any = None
        # After loading: with the lowest priority, the network might never be ready.
        os.setpriority(os.PRIO_PROCESS, 0, LOWEST_PRIORITY)

    def explain(self, pixels: np.ndarray, class_index: int) -> Explanation | None:
        """Return the explanation for uint8 S×S×3 pixels; None for a network without convolutions."""
        import torch

        from raycls.reports.attribution import cam_of, fed, spatial_layers
        from raycls.reports.pictures import overlay, png

        if self._cam is None:
            layers = spatial_layers(self._network, fed(self._network, self._card, pixels[None]))
            self._cam = cam_of(self._network, self._card, layers)
        if self._cam is None:
            return None
        (heat,) = self._cam(pixels[None], torch.tensor([class_index]))
        return Explanation(png(pixels), png(overlay(pixels, heat)))
