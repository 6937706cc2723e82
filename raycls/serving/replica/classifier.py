"""The routes of one replica: POST /predict, GET /livez, /readyz, /health, /metrics and /openapi.json.

    serve run serve_config.yaml          # raycls/serving/app.py binds the classifier to a model version

raycls/serving/README.md follows one image from the socket to its answer. A replica serves one model version for as long
as it lives. It knows nothing of aliases: the application was built with the version.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import random
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from contextlib import suppress
from math import isfinite
from typing import Any

from prometheus_client import Metric
from ray import serve
from ray.serve.exceptions import RayServeException
from starlette.requests import Request
from starlette.responses import Response

from raycls import registry
from raycls.data.decode import pixels_of
from raycls.engines.predictor import Prediction
from raycls.errors import ImageError
from raycls.ray_patches.haproxy_template import PREFIX, ROUTES
from raycls.serving.access import Access
from raycls.serving.prediction_id import HEADER, Signer
from raycls.serving.replica import openapi
from raycls.serving.replica.answer import (
    REQUEST_ID,
    HTTPProblem,
    busy,
    failed,
    full,
    image_problem,
    json_response,
)
from raycls.serving.replica.batching import ClientGone
from raycls.serving.replica.body import IncomingBodies, connected, read_body
from raycls.serving.replica.experiment_metrics import experiment_families
from raycls.serving.replica.explainer import Explainer
from raycls.serving.replica.inference import FORMATS, GARBAGE_THRESHOLD, Inference
from raycls.serving.replica.managed import Managed
from raycls.serving.replica.metrics import exposition
from raycls.serving.replica.middleware import REFUSED_BEFORE
from raycls.serving.replica.request import headers_of, images_of, wanted_of
from raycls.serving.settings import ServingConfig
from raycls.serving.state import Follower

OPEN_ROUTES = ("/livez", "/readyz", "/health", "/openapi.json")
CLIENT_LEFT = 499  # nginx's status for a request whose client has left
# Bodies that may be arriving at one replica. Beside max_pending, they stay below Serve's max_ongoing_requests.
INCOMING_BODIES = 256
INCOMING_LARGEST = (
    32  # of the largest size: what all of them may take together, and all that wait for their turn
)
EXPLAINED = "raycls.explained"  # in the scope of a request, whose latency is no prediction's
# From the last byte of a request to its answer: HAProxy gives up a second later (raycls/cluster/environment.py).
ANSWER_S = 7.0
SCRAPE_S = 2.0  # the time that the other replicas have to send their counts for GET /metrics
_SIGNED = HEADER.lower().encode()
UNPINNED_FROM = 0.25  # of max_pending: a replica that holds more keeps to no core

logger = logging.getLogger("ray.serve")
access_log = logging.getLogger("ray.serve.access")  # its level is its own: Serve's is above INFO


@serve.deployment
class Classifier(Managed):
    """The routes. `takes_requests` lets raycls/ray_patches/direct_predict.py call an instance with a Request."""

    takes_requests = True

    def __init__(self, config: ServingConfig, version: registry.ModelVersion, host: str | None):
        """Host: the address that the server listens on; None: it is not known."""
        self.config, self.version = config, version
        self.live = self.capture = None
        follower = Follower()
        self.access = Access(
            follower,
            host=host,
            token_sha256=config.token_sha256,
            no_auth=config.no_auth,
            allowed_hosts=config.allowed_hosts,
        )
        self._signing_key = follower.now.signing_key
        self._signers: dict[str, Signer] = {}  # by version
        access_log.setLevel(logging.INFO)
        gc.set_threshold(GARBAGE_THRESHOLD, *gc.get_threshold()[1:])
        self.pending = self.pending_bytes = 0  # requests whose body is here
        self.incoming = IncomingBodies(INCOMING_BODIES, INCOMING_LARGEST * config.max_body_bytes)
        # Ray constructs a replica in the event loop's thread, as Inference asks.
        self.replica = serve.get_replica_context().replica_id.unique_id
        self.inference = Inference(config, version, self.replica)
        self.metrics = self.inference.metrics
        self.explainer = Explainer(self.inference.checkpoint, self.inference.decode)
        # A task that nobody holds may be collected.
        self._following = asyncio.create_task(follower.follow(self.take_up))

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
            response = problem.response(request.headers)
        except ClientGone:
            response = Response(status_code=CLIENT_LEFT)
        except Exception:
            logger.exception("raycls failed on request %s", request.headers.get(REQUEST_ID))
            response = failed().response(request.headers)
        seconds = time.perf_counter() - started
        predicted = (
            response.status_code == 200
            and request.scope["path"] == "/predict"
            and not request.scope.get(EXPLAINED)
        )
        self.metrics.request(response.status_code, seconds if predicted else None)
        if self.config.access_log and random.random() < self.config.access_log:
            access_log.info(self._access(request, response, seconds))
        return response

    def _access(self, request: Request, response: Response, seconds: float) -> str:
        """Return one request as a line of JSON."""
        return json.dumps(
            {
                "method": request.method,
                "path": request.scope["path"],
                "status": response.status_code,
                "ms": round(1000 * seconds, 2),
                "bytes_in": request.headers.get("content-length"),
                "bytes_out": len(response.body),
                "content_type": request.headers.get("content-type"),
                "request_id": request.headers.get(REQUEST_ID),
                # HAProxy's word is the last one; those before it are the client's, or a load balancer's.
                "client": ", ".join(request.headers.getlist("x-forwarded-for")),
                "model": self.version.reference,
            }
        )

    async def _route(self, request: Request) -> Response:
        path, method = request.scope["path"], request.method  # `request.url` would parse the path again
        headers = headers_of(request)
        self.access.check_host(headers)
        if path == "/predict":
            if method != "POST":
                raise HTTPProblem(405, "/predict takes POST", {"Allow": "POST"})
            self.access.check_role(headers, "predict")
            return await self._predict(request, headers)
        if path.split("/", 2)[1] in ROUTES:  # HAProxy has no such rule where `raycls env` is not set
            return Response(status_code=307, headers={"Location": PREFIX + path})
        if path not in OPEN_ROUTES and path != "/metrics":
            raise HTTPProblem(404, f"there is no {path[:80]}: /openapi.json lists the routes")
        if method not in ("GET", "HEAD"):
            raise HTTPProblem(405, f"{path} takes GET", {"Allow": "GET, HEAD"})
        if path == "/metrics":
            self.access.check_role(headers, "predict")
            return await self._all_metrics()
        if path in ("/livez", "/readyz"):  # a replica takes requests when its model is ready
            return Response("ok\n", media_type="text/plain")
        if path == "/openapi.json":
            return json_response(openapi.document(self.inference.predictor.card.classes, self.config))
        model = {
            "name": self.version.name,
            "version": self.version.version,
            "fingerprint": self.version.fingerprint,
        }
        return json_response({"status": "ok", "model": model})

    async def _predict(self, request: Request, headers: Mapping[str, str]) -> Response:
        self._check_queue()
        top_k, explain, embedding = wanted_of(request)
        request.scope[EXPLAINED] = explain
        body = await read_body(request, self.config.max_body_bytes, self.config.body_timeout_s, self.incoming)
        began = time.perf_counter()
        self._check_queue(len(body))  # other bodies may have arrived first
        self.pending += 1
        self.pending_bytes += len(body)
        try:
            images, many = await images_of(headers, body, self.config.max_images)
            if many:
                # In a thread: an image header can be made so that it takes long to read.
                await asyncio.to_thread(self._check_pixels, images)
            if explain:
                self.explainer.check(len(images))
            still_wanted = connected(request)
            predictions = []
            if self.live is None or explain:
                outcomes: Sequence[Prediction | ImageError] = await self.inference.run(images, still_wanted)
                answering = self.version.version
            else:
                outcomes, answering = await self.live.run(images, headers, still_wanted)
            for position, outcome in enumerate(outcomes):
                if isinstance(outcome, ImageError):
                    raise image_problem(outcome, f"image {position}: " if many else "")
                if not isfinite(outcome.confidence):
                    self.metrics.not_finite += 1
                    raise HTTPProblem(500, "the model's answer is not a number: roll the version back")
                predictions.append(outcome.as_json(top_k, embedding=embedding) | {"model_version": answering})
            # What a page of another site sends is answered, and never kept.
            if self.capture and self.access.is_own_page(headers):
                self.capture.consider(images, outcomes, f"{self.version.name}/{answering}")
            if explain:
                classes = [prediction["class_index"] for prediction in predictions]
                left_s = max(0.0, began + ANSWER_S - time.perf_counter())
                explained = await self.explainer.explain(images, classes, still_wanted, left_s)
                for prediction, explanation in zip(predictions, explained, strict=True):
                    prediction["explanation_png_base64"] = b64encode(explanation.overlay).decode()
                    prediction["seen_png_base64"] = b64encode(explanation.seen).decode()
            if not still_wanted():
                raise ClientGone
        finally:
            self.pending -= 1
            self.pending_bytes -= len(body)
        answer = json_response({"predictions": predictions} if many else predictions[0])
        self._sign(answer, answering, predictions)
        return answer

    def _sign(self, answer: Response, version: str, predictions: Sequence[dict[str, Any]]) -> None:
        """Add the header with which a client says later what was right."""
        if not self._signing_key:
            return
        signer = self._signers.get(version)
        if signer is None:
            signer = self._signers[version] = Signer(self._signing_key, f"{self.version.name}/{version}")
        signed = signer.sign([(each["class_index"], each["confidence"]) for each in predictions])
        answer.raw_headers.append((_SIGNED, signed.encode()))  # a tenth of the time that `headers` takes

    def _check_queue(self, size: int = 0) -> None:
        if self.pending >= self.config.max_pending:
            raise full(self.config.max_pending)
        if self.pending_bytes + size > INCOMING_LARGEST * self.config.max_body_bytes:
            raise busy("the images that wait are too large together")

    def _check_pixels(self, images: list[bytes]) -> None:
        """Raise HTTPProblem 413 for images that have more pixels together than one image may have."""
        most, total = self.config.max_pixels, 0
        for image in images:
            with suppress(ImageError):  # the inference reports it
                total += pixels_of(image, max_pixels=most, formats=FORMATS)
        if total > most:
            raise HTTPProblem(
                413, f"the images have {total:,} pixels together; at most {most:,} are accepted"
            )

    async def counts(self) -> list[Metric]:
        """Return this replica's part of GET /metrics, for the replica that was asked."""
        experiment = experiment_families(self.replica, self.live.counts if self.live else None)
        return [*self.metrics.collect(self.pending), *experiment]

    async def _all_metrics(self) -> Response:
        """Return the counts of all replicas. Where one does not answer, the page is incomplete and says so."""
        own = serve.get_replica_context()
        # The first call asks the controller and waits for it.
        handle = await asyncio.to_thread(serve.get_deployment_handle, own.deployment, own.app_name)
        # Not results_async: where one replica is silent, it keeps back what the others have sent.
        results = handle.broadcast("counts").results
        try:
            received = await asyncio.to_thread(results, timeout_s=SCRAPE_S, return_exceptions=True)
        except (TimeoutError, RayServeException):
            received = []
        found = [counts for counts in received if isinstance(counts, list)]
        complete = 0 < len(found) == len(received)
        found = found or [await self.counts()]
        if self.inference.drift:
            found.append(self.inference.drift.families())
        return exposition(found, complete=complete)

    def check_health(self) -> None:
        """Raise where this replica cannot answer. Serve calls it, and replaces a replica that raises."""
        self.inference.pin(busy=self.pending > self.config.max_pending * UNPINNED_FROM)
        self.inference.check_health()
