"""The data plane: one replica of the classifier, from an HTTP request to its answer.

    serve run serve_config.yaml          # raycls/serving/app.py binds it to a model version

Requests that arrive during one forward pass are the next batch. Decoding and the forward pass run in one thread, so
that the event loop stays free to read and answer. Knows one model version for as long as it lives, and nothing of
registries: the application was built with the version it serves.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from raycls import registry
from raycls.config import ServingConfig
from raycls.data.transforms import decode
from raycls.errors import ImageError
from raycls.models.predictor import Prediction, Predictor
from raycls.serving.http import HTTPProblem, answer, images_of, problem_of, read_body, top_k_of
from raycls.serving.metrics import Metrics

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
RETRY_AFTER_S = 1

logger = logging.getLogger("ray.serve")


@serve.deployment
class Classifier:
    """POST /predict, GET /health, GET /metrics, as the README's serving page describes them."""

    def __init__(self, config: ServingConfig, version: registry.ModelVersion):
        self.config, self.version = config, version
        self.predictor = Predictor.load(registry.checkpoint(version), threads=config.threads)
        self.metrics = Metrics(version)
        self.pending = 0
        self.thread = ThreadPoolExecutor(1, "forward")
        self.idle = asyncio.Event()
        self.idle.set()
        self.batch.set_max_batch_size(config.max_batch_size)  # type: ignore[attr-defined]
        self._warm_up()

    async def __call__(self, request: Request) -> Response:
        started = time.perf_counter()
        try:
            response = await self._route(request)
        except HTTPProblem as problem:
            response = problem.response()
        except Exception:
            logger.exception("raycls failed on a request")
            response = HTTPProblem(500, "the server failed on this request; its log says why").response()
        self.metrics.request(response.status_code, time.perf_counter() - started)
        return response

    async def _route(self, request: Request) -> Response:
        path, method = request.url.path, request.method
        if path == "/predict":
            if method != "POST":
                raise HTTPProblem(405, "/predict takes POST", {"Allow": "POST"})
            return await self._predict(request)
        if path not in ("/health", "/metrics"):
            raise HTTPProblem(404, f"there is no {path[:80]}: use /predict, /health or /metrics")
        if method not in ("GET", "HEAD"):
            raise HTTPProblem(405, f"{path} takes GET", {"Allow": "GET, HEAD"})
        if path == "/metrics":
            return self.metrics.response()
        model = {
            "name": self.version.name,
            "version": self.version.version,
            "fingerprint": self.version.fingerprint,
        }
        return answer({"status": "ok", "model": model})

    async def _predict(self, request: Request) -> Response:
        if self.pending >= self.config.max_pending:
            raise HTTPProblem(
                429, "the queue is full: try again in a moment", {"Retry-After": str(RETRY_AFTER_S)}
            )
        self.pending += 1
        try:
            top_k = top_k_of(request)
            body = await read_body(request, self.config.max_body_bytes)
            images, many = await images_of(request.headers, body, self.config.max_images)
            # While a forward pass runs, wait outside the batch queue: @serve.batch would make each newcomer a batch
            # of its own behind the running one. Released together, they are one batch.
            await self.idle.wait()
            results = await asyncio.gather(*[self.batch(image) for image in images])
        finally:
            self.pending -= 1
        for position, result in enumerate(results):
            if isinstance(result, ImageError):
                problem = problem_of(result)
                if many:
                    problem.detail = f"image {position}: {problem.detail}"
                raise problem
        predictions = [
            result.as_json(top_k) | {"model_version": self.version.version}
            for result in results
            if isinstance(result, Prediction)
        ]
        return answer({"predictions": predictions} if many else predictions[0])

    @serve.batch(batch_wait_timeout_s=0)
    async def batch(self, images: list[bytes]) -> list[Prediction | ImageError]:
        self.idle.clear()
        try:
            return await asyncio.get_running_loop().run_in_executor(self.thread, self._classify, images)
        finally:
            self.idle.set()

    def _classify(self, images: list[bytes]) -> list[Prediction | ImageError]:
        """One answer per encoded image; an image that cannot be read spoils no other."""
        started = time.perf_counter()
        outcomes = [self._pixels(data) for data in images]
        readable = [outcome for outcome in outcomes if isinstance(outcome, np.ndarray)]
        predictions: list[Prediction] = []
        if readable:
            predictions = self.predictor.predictions(self.predictor.probabilities(np.stack(readable)))
            time.sleep(self.config.simulate_forward_ms / 1000)
        self.metrics.batch(len(images), time.perf_counter() - started)
        answers = iter(predictions)
        return [next(answers) if isinstance(outcome, np.ndarray) else outcome for outcome in outcomes]

    def _pixels(self, data: bytes) -> np.ndarray | ImageError:
        try:
            return self.predictor.prepare(decode(data, max_pixels=self.config.max_pixels, formats=FORMATS))
        except ImageError as error:
            return error

    def _warm_up(self) -> None:
        """Pay for the first passes, one image and a full batch, before the first request does."""
        side = self.predictor.card.image_size
        for count in (1, self.config.max_batch_size):
            batch = np.zeros((count, side, side, 3), np.uint8)
            self.thread.submit(partial(self.predictor.probabilities, batch)).result()
