"""The data plane: one replica of the classifier, from an HTTP request to its answer.

    serve run serve_config.yaml          # raycls/serving/app.py binds it to a model version

Decoding and the forward pass run in one thread (raycls/serving/replica/batching.py), so that the event loop stays free to read
and answer. Knows one model version for as long as it lives, and nothing of registries: the application was built with
the version it serves.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import os
import random
import threading
import time
from base64 import b64encode
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
from prometheus_client import Metric
from ray import serve
from ray.serve.exceptions import RayServeException
from starlette.requests import Request
from starlette.responses import Response

from raycls import registry
from raycls.cluster.environment import OWN_CORES
from raycls.config import Engine, ServingConfig
from raycls.data.transforms import decode, pixels_of
from raycls.engines.build import best_device, to_serve
from raycls.engines.predictor import Prediction, Predictor
from raycls.errors import ImageError
from raycls.serving import auth
from raycls.serving.replica import openapi
from raycls.serving.replica.batching import Batcher, ClientGone
from raycls.serving.replica.core_pinning import PinnedCore
from raycls.serving.replica.explainer import Explainer
from raycls.serving.replica.metrics import Metrics, exposition
from raycls.serving.replica.middleware import REFUSED_BEFORE
from raycls.serving.replica.request import (
    HTTPProblem,
    IncomingBodies,
    answer,
    connected,
    explain_of,
    full,
    images_of,
    problem_of,
    read_body,
    top_k_of,
)

CLIENT_LEFT = 499  # nginx's status for a request that nobody waits for any more
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
# Bodies on their way to one replica: beside max_pending, fewer than Serve's max_ongoing_requests.
ARRIVING = 256
BODIES = 32  # of the largest size: what all those on their way may take together
SCRAPE_S = 2.0  # what the other replicas have to tell their counts for GET /metrics
# A forward pass that takes so long, and HUNG_TIMES what a full batch does, will not end. Three failures in a row are
# soon together where the health is looked at twice a second.
HUNG_S = 15.0
HUNG_TIMES = 10
# New objects after which Python looks for cycles among them. What a hundred requests hold is more than its own 700,
# which would have it look all the time, a tenth of a replica's CPU. What holds a request's images must be in no cycle.
GARBAGE = 20_000
FREE_FROM = 0.25  # of max_pending: a replica that holds more is bound to no core

logger = logging.getLogger("ray.serve")
access_log = logging.getLogger("ray.serve.access")  # with a level of its own: Serve's is above INFO


@serve.deployment
class Classifier:
    """POST /predict, GET /health, GET /metrics, as GET /openapi.json describes them."""

    takes_requests = True  # and returns responses: raycls/ray_patches/direct_predict.py asks

    def __init__(self, config: ServingConfig, version: registry.ModelVersion):
        self.config, self.version = config, version
        access_log.setLevel(logging.INFO)
        checkpoint = registry.checkpoint(version)
        engine = _engine(config, version)
        self.predictor = Predictor.load(checkpoint, engine=engine, threads=config.threads)
        replica = serve.get_replica_context().replica_id.unique_id
        self.metrics = Metrics(replica, version, self.predictor.card.classes, self.predictor.engine)
        self.explainer = Explainer(checkpoint, self._decode)
        self.arrivals = IncomingBodies(ARRIVING, BODIES * config.max_body_bytes)
        self.pending = 0  # requests whose body is here
        self.forward_since: float | None = None  # of the forward pass that runs now
        gc.set_threshold(GARBAGE, *gc.get_threshold()[1:])
        on_cpu = best_device() == "cpu"
        self.batches = Batcher(self._classify, config.max_batch_size, first=self._warm_up, halve=on_cpu)
        self.core: PinnedCore | None = None
        if os.environ.get(OWN_CORES) and config.threads == 1 and on_cpu:
            # What the event loop has done in other threads is to run on any core: they would keep to its own.
            anywhere = ThreadPoolExecutor(
                initializer=os.sched_setaffinity, initargs=(0, os.sched_getaffinity(0))
            )
            asyncio.get_running_loop().set_default_executor(anywhere)
            # This thread is the event loop's: Ray constructs a replica there.
            self.core = PinnedCore([threading.get_native_id(), self.batches.thread_id])
            self.core.keep()

    async def __call__(self, request: Request) -> Response:
        started = time.perf_counter()
        if refused := request.scope.get(REFUSED_BEFORE):
            self.metrics.request(429, count=refused)
        try:
            response = await self._route(request)
        except asyncio.CancelledError:
            self.metrics.request(CLIENT_LEFT)
            raise
        except HTTPProblem as problem:
            response = problem.response()
        except ClientGone:
            response = Response(status_code=CLIENT_LEFT)
        except Exception:
            logger.exception("raycls failed on a request")
            response = HTTPProblem(500, "the server failed on this request; its log says why").response()
        seconds = time.perf_counter() - started
        predicted = (
            response.status_code == 200
            and request.scope["path"] == "/predict"
            and b"explain=true" not in request.scope["query_string"]
        )
        self.metrics.request(response.status_code, seconds if predicted else None)
        if self.config.access_log and random.random() < self.config.access_log:
            access_log.info(self._access(request, response, seconds))
        return response

    def _access(self, request: Request, response: Response, seconds: float) -> str:
        """One request as a line of JSON."""
        return json.dumps(
            {
                "method": request.method,
                "path": request.scope["path"],
                "status": response.status_code,
                "ms": round(1000 * seconds, 2),
                "bytes_in": request.headers.get("content-length"),
                "bytes_out": len(response.body),
                "content_type": request.headers.get("content-type"),
                "request_id": request.headers.get("x-request-id"),
                "model": self.version.reference,
            }
        )

    async def _route(self, request: Request) -> Response:
        path, method = request.scope["path"], request.method  # request.url would be parsed anew
        if path == "/predict":
            if method != "POST":
                raise HTTPProblem(405, "/predict takes POST", {"Allow": "POST"})
            auth.check(request.headers, self.config.token_sha256)
            return await self._predict(request)
        if path not in ("/health", "/metrics", "/openapi.json"):
            raise HTTPProblem(404, f"there is no {path[:80]}: /openapi.json says what there is")
        if method not in ("GET", "HEAD"):
            raise HTTPProblem(405, f"{path} takes GET", {"Allow": "GET, HEAD"})
        if path == "/metrics":
            auth.check(request.headers, self.config.token_sha256)
            return await self._all_metrics()
        if path == "/openapi.json":
            return answer(openapi.document(self.predictor.card.classes, self.config))
        model = {
            "name": self.version.name,
            "version": self.version.version,
            "fingerprint": self.version.fingerprint,
        }
        return answer({"status": "ok", "model": model})

    async def _predict(self, request: Request) -> Response:
        self._check_queue()
        top_k, explain = top_k_of(request), explain_of(request)
        body = await read_body(request, self.config.max_body_bytes, self.config.body_timeout_s, self.arrivals)
        self._check_queue()  # others may have been faster
        self.pending += 1
        try:
            images, many = await images_of(request.headers, body, self.config.max_images)
            if many:
                # In a thread, since headers too can be made to take long.
                await asyncio.to_thread(self._check_pixels, images)
            if explain:
                self.explainer.check(len(images))
            wanted = connected(request)
            results = await self.batches.put(images, wanted)
            predictions = []
            for position, result in enumerate(results):
                if isinstance(result, ImageError):
                    raise problem_of(result, f"image {position}: " if many else "")
                predictions.append(result.as_json(top_k) | {"model_version": self.version.version})
            if explain:
                classes = [prediction["class_index"] for prediction in predictions]
                overlays = await self.explainer.overlays(images, classes, wanted)
                for prediction, overlay in zip(predictions, overlays, strict=True):
                    prediction["explanation_png_base64"] = b64encode(overlay).decode()
            if not wanted():
                raise ClientGone
        finally:
            self.pending -= 1
        return answer({"predictions": predictions} if many else predictions[0])

    def _check_queue(self) -> None:
        if self.pending >= self.config.max_pending:
            raise full(self.config.max_pending)

    def _check_pixels(self, images: list[bytes]) -> None:
        """Raise HTTPProblem 413 for images that together take as long to decode as one that would be refused."""
        most, total = self.config.max_pixels, 0
        for image in images:
            with suppress(ImageError):  # which its own answer will say
                total += pixels_of(image, max_pixels=most, formats=FORMATS)
        if total > most:
            raise HTTPProblem(
                413, f"the images have {total:,} pixels together; at most {most:,} are accepted"
            )

    async def counts(self) -> list[Metric]:
        """This replica's part of GET /metrics, for whichever replica was asked."""
        return self.metrics.collect(self.pending)

    async def _all_metrics(self) -> Response:
        """Of all replicas; where one does not answer, of the others, which the page says."""
        own = serve.get_replica_context()
        # It asks the controller the first time, and waits for it.
        handle = await asyncio.to_thread(serve.get_deployment_handle, own.deployment, own.app_name)
        # Not results_async: where one replica is silent, that keeps back what the others have told.
        results = handle.broadcast("counts").results
        try:
            told = await asyncio.to_thread(results, timeout_s=SCRAPE_S, return_exceptions=True)
        except (TimeoutError, RayServeException):
            told = []
        found = [counts for counts in told if isinstance(counts, list)]
        return exposition(found or [self.metrics.collect(self.pending)], complete=0 < len(found) == len(told))

    def check_health(self) -> None:
        """Called by Serve, which replaces a replica that raises."""
        if self.core:
            # With many waiting, others on its core keep them waiting longer than the other thread would.
            if self.pending > self.config.max_pending * FREE_FROM:
                self.core.leave()
            else:
                self.core.keep()
        since = self.forward_since
        if since and (seconds := time.perf_counter() - since) > HUNG_S + HUNG_TIMES * self.full_batch_s:
            raise RuntimeError(f"a forward pass has been running for {seconds:.0f} s")

    def _classify(self, images: list[bytes], waited: list[float]) -> list[Prediction | ImageError]:
        """One answer per encoded image; an image that cannot be read spoils no other."""
        started = time.perf_counter()
        outcomes = [self._pixels(data) for data in images]
        readable = [outcome for outcome in outcomes if isinstance(outcome, np.ndarray)]
        decoded = time.perf_counter()
        predictions: list[Prediction] = []
        forward_seconds = None
        if readable:
            self.forward_since = decoded
            try:
                probabilities = self.predictor.probabilities(np.stack(readable))
                if self.config.simulate_forward_ms:
                    time.sleep(self.config.simulate_forward_ms / 1000 * len(readable))
            finally:
                self.forward_since = None
            forward_seconds = time.perf_counter() - decoded
            predictions = self.predictor.predictions(probabilities)
        self.metrics.batch(waited, decoded - started, forward_seconds)
        self.metrics.answers(predictions)
        answers = iter(predictions)
        return [next(answers) if isinstance(outcome, np.ndarray) else outcome for outcome in outcomes]

    def _pixels(self, data: bytes) -> np.ndarray | ImageError:
        try:
            return self._decode(data)
        except ImageError as error:
            return error

    def _decode(self, data: bytes) -> np.ndarray:
        """uint8 S×S×3. Raises ImageError."""
        return self.predictor.prepare(decode(data, max_pixels=self.config.max_pixels, formats=FORMATS))

    def _warm_up(self) -> None:
        """Pay for the first passes, with one image, two, four, to a full batch, before the first request does."""
        side, most = self.predictor.card.image_size, self.config.max_batch_size
        for count in [*(2**k for k in range((most - 1).bit_length())), most]:
            started = time.perf_counter()
            self.predictor.probabilities(np.zeros((count, side, side, 3), np.uint8))
        self.full_batch_s = time.perf_counter() - started + self.config.simulate_forward_ms / 1000 * most


def _engine(config: ServingConfig, version: registry.ModelVersion) -> Engine:
    engine = to_serve(config.engine, version.engine)
    if config.engine != "auto":
        return engine
    if not version.engine_timings:
        logger.warning(f"engine {engine}: none was timed for {version.reference}; `raycls promote` does that")
    elif engine != version.engine:
        logger.warning(
            f"engine {engine}, as {version.engine} does not run on {best_device()}: promote where it serves"
        )
    return engine
