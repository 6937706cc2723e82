"""Encoded images to predictions: decoding, the forward pass, and a watchdog over it.

    inference = Inference(config, version, "9x3k2a")
    outcomes = await inference.run([encoded], still_wanted)      # a Prediction or an ImageError for each image

One thread decodes and computes (raycls/serving/replica/batching.py), so that the event loop stays free to read and
answer. Knows one model version, and nothing of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from raycls import registry
from raycls.cluster.environment import OWN_CORES
from raycls.config import Engine
from raycls.data.transforms import Square
from raycls.engines.build import best_device
from raycls.engines.predictor import Prediction, Predictor, predictions_of, softmax
from raycls.errors import ImageError
from raycls.serving.replica.batching import Batcher
from raycls.serving.replica.core_pinning import PinnedCore
from raycls.serving.replica.drift_sums import DriftSums
from raycls.serving.replica.metrics import Metrics
from raycls.serving.settings import FORMATS, ServingConfig

# A forward pass that takes longer than HUNG_S plus HUNG_TIMES the time of a full batch counts as hung.
HUNG_S = 15.0
HUNG_TIMES = 10
# An image that takes longer to decode counts as hung. The largest that is accepted takes 6 s of a busy core.
DECODING_HUNG_S = 60.0
# Batches in a row whose forward pass raised. Such a replica is fast, and would attract the requests.
MOST_FAILED = 5
# New objects after which Python looks for cycles. Its own 700 are fewer than a hundred requests hold: it would look all
# the time, for a tenth of a replica's CPU. No request's images may be part of a cycle.
GARBAGE_THRESHOLD = 20_000

logger = logging.getLogger("ray.serve")


class Inference:
    """One checkpoint's network behind a queue of images. Construct it in the event loop's thread.

    The constructor returns when the first passes are done. own_core: keep to a core where the cluster says so. Not for
    a replica that is called through a Serve handle: its event loop has more work than the way of HTTP.
    """

    def __init__(
        self, config: ServingConfig, version: registry.ModelVersion, replica: str, *, own_core: bool = True
    ):
        self._config = config
        self.checkpoint = registry.checkpoint(version)
        engine = _engine(config, version)
        self.device = best_device()
        self.predictor = Predictor.load(
            self.checkpoint, engine=engine, threads=config.threads, rejection=version.rejection
        )
        self.metrics = Metrics(
            replica, version, self.predictor.card.classes, self.predictor.engine, self.device
        )
        self.drift = DriftSums.of(self.checkpoint) if config.drift else None
        # When the running forward pass and the running decoding of an image began.
        self._forward_since: float | None = None
        self._decoding_since: float | None = None
        self._failed = 0  # batches in a row
        self._full_batch_s = 0.0
        on_cpu = self.device == "cpu"
        self._batcher = Batcher(self._classify, config.max_batch_size, first=self._warm_up, halve=on_cpu)
        self._core: PinnedCore | None = None
        if own_core and os.environ.get(OWN_CORES) and config.threads == 1 and on_cpu:
            # Threads that the event loop starts inherit its core; the pool's threads may run on every core.
            pool = ThreadPoolExecutor(
                thread_name_prefix="any-core",
                initializer=os.sched_setaffinity,
                initargs=(0, os.sched_getaffinity(0)),
            )
            asyncio.get_running_loop().set_default_executor(pool)
            self._core = PinnedCore([threading.get_native_id(), self._batcher.thread_id])
            self._core.keep()

    async def run(
        self, images: Sequence[bytes], still_wanted: Callable[[], bool]
    ) -> list[Prediction | ImageError]:
        """Return an outcome for each encoded image, in order. Raises ClientGone where still_wanted says no."""
        return await self._batcher.put(images, still_wanted)

    def decode(self, data: bytes) -> np.ndarray:
        """Return uint8 S×S×3 pixels of an encoded image. Raises ImageError."""
        return self.predictor.read(data, max_pixels=self._config.max_pixels, formats=FORMATS)

    def check_health(self) -> None:
        """Raise RuntimeError where a forward pass or a decoding hangs, passes fail, or nothing computes them."""
        for what, since, longest in (
            ("a forward pass", self._forward_since, HUNG_S + HUNG_TIMES * self._full_batch_s),
            ("the decoding of an image", self._decoding_since, DECODING_HUNG_S),
        ):
            if since and (seconds := time.perf_counter() - since) > longest:
                raise RuntimeError(f"{what} has been running for {seconds:.0f} s")
        if self._failed >= MOST_FAILED:
            raise RuntimeError(f"the last {self._failed} forward passes failed: the log says why")
        if not self._batcher.is_alive:
            raise RuntimeError("the thread that computes has ended")

    def pin(self, *, busy: bool) -> None:
        """Keep to a core, where this replica has one. Leave it while the replica is busy.

        While many requests wait, other processes on the core delay them more than the replica's own two threads do.
        """
        if self._core:
            if busy:
                self._core.leave()
            else:
                self._core.keep()

    def _classify(self, images: list[bytes], waited: list[float]) -> list[Prediction | ImageError]:
        """Return an outcome for each image. An image that cannot be read leaves the others alone."""
        started = time.perf_counter()
        try:
            outcomes = [self._pixels(data) for data in images]
        finally:
            self._decoding_since = None
        readable = [outcome for outcome in outcomes if isinstance(outcome, Square)]
        decoded = time.perf_counter()
        predictions: list[Prediction] = []
        forward_seconds = None
        if readable:
            self._forward_since = decoded
            try:
                batch = np.stack([square.pixels for square in readable])
                logits, embeddings = self.predictor.outputs(batch)
                if self._config.simulate_forward_ms:
                    time.sleep(self._config.simulate_forward_ms / 1000 * len(readable))
            except Exception:
                self._failed += 1
                raise
            finally:
                self._forward_since = None
            self._failed = 0
            forward_seconds = time.perf_counter() - decoded
            probabilities = softmax(logits)
            predictions = predictions_of(
                probabilities, embeddings, self.predictor.card.classes, self.predictor.limits
            )
            if self.drift and self.drift.has_room:
                sizes = [(square.width, square.height) for square in readable]
                self.drift.add(probabilities, embeddings, batch, sizes)
        self.metrics.batch(waited, decoded - started, forward_seconds)
        self.metrics.answers(predictions)
        answers = iter(predictions)
        return [outcome if isinstance(outcome, ImageError) else next(answers) for outcome in outcomes]

    def _pixels(self, data: bytes) -> Square | ImageError:
        self._decoding_since = time.perf_counter()
        try:
            return self.predictor.read_with_size(data, max_pixels=self._config.max_pixels, formats=FORMATS)
        except ImageError as error:
            return error

    def _warm_up(self) -> None:
        """Run the first passes, of one image, two, four, up to a full batch: they are slower than later ones."""
        side, most = self.predictor.card.image_size, self._config.max_batch_size
        for count in [*(2**k for k in range((most - 1).bit_length())), most]:
            started = time.perf_counter()
            self.predictor.outputs(np.zeros((count, side, side, 3), np.uint8))
        simulated_s = self._config.simulate_forward_ms / 1000 * most
        self._full_batch_s = time.perf_counter() - started + simulated_s


def _engine(config: ServingConfig, version: registry.ModelVersion) -> Engine:
    engine = registry.engine_to_serve(version, config.engine)
    if config.engine != "auto":
        return engine
    if not version.engine_timings:
        logger.warning(
            f"engine {engine}: none was measured for {version.reference}; `raycls promote` does that"
        )
    elif engine != version.engine:
        logger.warning(
            f"engine {engine}: {version.engine} does not run on {best_device()}; promote the version on this machine"
        )
    return engine
