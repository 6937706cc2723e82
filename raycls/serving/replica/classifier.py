"""The routes of one replica: POST /predict, GET /livez, /readyz, /health, /metrics and /openapi.json, and /v2.

All of them also below /models/NAME and /models/NAME/versions/VERSION, with the name and version of the replica's model.

    serve run serve_config.yaml          # raycls/serving/app.py binds the classifier to a model version

raycls/serving/README.md follows one image from the socket to its answer. A replica serves one model version for as long
as it lives. It knows nothing of aliases: the application was built with the version.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import random
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from math import isfinite
from urllib.parse import quote

from prometheus_client import Metric
from ray import serve
from starlette.requests import Request
from starlette.responses import Response

from raycls import registry
from raycls.engines.predictor import Prediction
from raycls.errors import ImageError
from raycls.ray_patches.haproxy_template import PREFIX, ROUTES
from raycls.serving.access import Access
from raycls.serving.prediction_id import HEADER, Signer
from raycls.serving.replica import model_path, open_inference, openapi
from raycls.serving.replica.access_log import access_line
from raycls.serving.replica.all_metrics import of_all_replicas
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
from raycls.serving.replica.inference import GARBAGE_THRESHOLD, Inference
from raycls.serving.replica.managed import Managed
from raycls.serving.replica.middleware import REFUSED_BEFORE
from raycls.serving.replica.request import check_pixels, headers_of, images_of, wanted_of
from raycls.serving.settings import ServingConfig
from raycls.serving.state import Follower

OPEN_ROUTES = ("/livez", "/readyz", "/health", "/openapi.json")
CLIENT_LEFT = 499  # nginx's status for a request whose client has left
# Bodies that may be arriving at one replica. Beside max_pending, they stay below Serve's max_ongoing_requests.
INCOMING_BODIES = 256
# What all of them may take together, and all that wait for their turn: so many of the largest.
INCOMING_LARGEST = 32
PREDICTED = "raycls.predicted"  # in the scope of a request whose latency is a prediction's
# From the last byte of a request to its answer: HAProxy gives up a second later (raycls/cluster/environment.py).
ANSWER_S = 7.0
_SIGNED = HEADER.lower().encode()
UNPINNED_FROM = 0.25  # of max_pending: a replica that holds more keeps to no core

logger = logging.getLogger("ray.serve")
access_log = logging.getLogger("ray.serve.access")  # its level is its own: Serve's is above INFO


class Held:
    """Counts a request, and the bytes of its body, among those that a classifier holds."""

    __slots__ = ("_by", "_size")

    def __init__(self, by: Classifier, size: int):
        self._by, self._size = by, size

    def __enter__(self) -> None:
        self._by.pending += 1
        self._by.pending_bytes += self._size

    def __exit__(self, *_: object) -> None:
        self._by.pending -= 1
        self._by.pending_bytes -= self._size


@serve.deployment
class Classifier(Managed):
    """The routes."""

    takes_requests = True  # raycls/ray_patches/direct_predict.py may call an instance with a Request

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
        self._identity = {
            "model": {"name": version.name, "version": version.version, "fingerprint": version.fingerprint},
            "engine": self.inference.predictor.engine,
            "device": self.inference.device,
            **({"rejection": version.rejection.model_dump()} if version.rejection else {}),
        }
        self._following = asyncio.create_task(follower.follow(self.take_up))  # held: else it may be collected

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
            is_open = f"{open_inference.BEGINNING}/" in f"{request.scope['path']}/"
            response = problem.response(request.headers, said_as="error" if is_open else "detail")
        except ClientGone:
            response = Response(status_code=CLIENT_LEFT)
        except Exception:
            logger.exception("raycls failed on request %s", request.headers.get(REQUEST_ID))
            response = failed().response(request.headers)
        seconds = time.perf_counter() - started
        predicted = response.status_code == 200 and request.scope.get(PREDICTED)
        self.metrics.request(response.status_code, seconds if predicted else None)
        if self.config.access_log and random.random() < self.config.access_log:
            access_log.info(access_line(request, response, seconds, self.version.reference))
        return response

    async def _route(self, request: Request) -> Response:
        path = request.scope["path"]  # `request.url` would parse the path again
        headers = headers_of(request)
        self.access.check_host(headers)
        if path.startswith(model_path.BELOW):
            if not model_path.is_of_model(path):  # HAProxy sends it to the control plane
                return Response(status_code=307, headers={"Location": quote(PREFIX + path)})
            model, number, path = model_path.place_of(path)
            model_path.check(request.scope, model, number, self.version)
        if path == "/predict":
            if request.method != "POST":
                raise HTTPProblem(405, "/predict takes POST", {"Allow": "POST"})
            self.access.check_role(headers, "predict")
            return await self._predict(request, headers)
        if open_inference.is_path(path):
            return await self._open_inference(request, headers, path)
        return await self._told(request, headers, path)

    async def _told(self, request: Request, headers: Mapping[str, str], path: str) -> Response:
        """Answer what tells about this replica and its model."""
        if path.split("/", 2)[1] in ROUTES:  # HAProxy has no such rule where `raycls env` is not set
            return Response(status_code=307, headers={"Location": quote(PREFIX + path)})
        if path not in OPEN_ROUTES and path != "/metrics":
            raise HTTPProblem(
                404, f"there is no {path[:80]}: /openapi.json lists the routes, /console is the page"
            )
        if request.method not in ("GET", "HEAD"):
            raise HTTPProblem(405, f"{path} takes GET", {"Allow": "GET, HEAD"})
        if path == "/metrics":
            self.access.check_role(headers, "predict")
            return await of_all_replicas(await self.counts(), self.inference.drift)
        if path in ("/livez", "/readyz"):  # a replica takes requests when its model is ready
            return Response("ok\n", media_type="text/plain")
        if path == "/openapi.json":
            return json_response(openapi.document(self.inference.predictor.card.classes, self.config))
        return json_response({"status": "ok", **self._identity})

    async def _predict(self, request: Request, headers: Mapping[str, str]) -> Response:
        top_k, explain, embedding = wanted_of(request)
        request.scope[PREDICTED] = not explain
        body = await self._body(request)
        began = time.perf_counter()
        with Held(self, len(body)):
            images, many = await images_of(headers, body, self.config.max_images)
            if explain:
                self.explainer.check(len(images))
            found, version = await self._classify(request, headers, images, many=many, to_explain=explain)
            predictions = [
                prediction.as_json(top_k, embedding=embedding) | {"model_version": version}
                for prediction in found
            ]
            if explain:
                classes = [prediction.class_index for prediction in found]
                left_s = max(0.0, began + ANSWER_S - time.perf_counter())
                explained = await self.explainer.explain(images, classes, connected(request), left_s)
                for document, explanation in zip(predictions, explained, strict=True):
                    document["explanation_png_base64"] = b64encode(explanation.overlay).decode()
                    document["seen_png_base64"] = b64encode(explanation.seen).decode()
        return self._signed(
            json_response({"predictions": predictions} if many else predictions[0]), version, found
        )

    async def _open_inference(self, request: Request, headers: Mapping[str, str], path: str) -> Response:
        place, model = open_inference.place_of(path), self.version
        open_inference.check_method(place, request.method)
        model_path.check(request.scope, place.model, place.version, model)
        if place.what != "infer":
            classes, rejects = len(self.inference.predictor.card.classes), model.rejection is not None
            told = open_inference.told(place, model.name, model.version, classes, rejects=rejects)
            return json_response(told)
        self.access.check_role(headers, "predict")
        request.scope[PREDICTED] = True
        body = await self._body(request)
        with Held(self, len(body)):
            asked = open_inference.asked_of(headers, body, self.config.max_images)
            many = len(asked.images) > 1
            found, version = await self._classify(request, headers, asked.images, many=many)
        return self._signed(
            json_response(open_inference.answer(asked, found, model.name, version)), version, found
        )

    async def _body(self, request: Request) -> bytes:
        self._check_queue()
        body = await read_body(request, self.config.max_body_bytes, self.config.body_timeout_s, self.incoming)
        self._check_queue(len(body))  # other bodies may have arrived first
        return body

    async def _classify(
        self,
        request: Request,
        headers: Mapping[str, str],
        images: list[bytes],
        *,
        many: bool,
        to_explain: bool = False,
    ) -> tuple[list[Prediction], str]:
        """Return a prediction for each encoded image, and the version that answers. many: problems say which image.

        to_explain: by the replica's own version, also where an experiment runs. Raises HTTPProblem, and ClientGone.
        """
        if many:
            # In a thread: an image header can be made so that it takes long to read.
            await asyncio.to_thread(check_pixels, images, self.config.max_pixels)
        still_wanted = connected(request)
        if self.live is None or to_explain or model_path.ONE_VERSION in request.scope:
            outcomes: Sequence[Prediction | ImageError] = await self.inference.run(images, still_wanted)
            version = self.version.version
        else:
            outcomes, version = await self.live.run(images, headers, still_wanted)
        found = []
        for position, outcome in enumerate(outcomes):
            if isinstance(outcome, ImageError):
                raise image_problem(outcome, f"image {position}: " if many else "")
            if not isfinite(outcome.confidence):
                self.metrics.not_finite += 1
                raise HTTPProblem(500, "the model's answer is not a number: roll the version back")
            found.append(outcome)
        # What a page of another site sends is answered, and never kept.
        if self.capture and self.access.is_own_page(headers):
            self.capture.consider(images, found, f"{self.version.name}/{version}")
        if not still_wanted():
            raise ClientGone
        return found, version

    def _signed(self, answer: Response, version: str, predictions: Sequence[Prediction]) -> Response:
        """Return the answer with the header by which a client says later what was right."""
        if not self._signing_key:
            return answer
        signer = self._signers.get(version)
        if signer is None:
            signer = self._signers[version] = Signer(self._signing_key, f"{self.version.name}/{version}")
        signed = signer.sign([(each.class_index, each.confidence) for each in predictions])
        answer.raw_headers.append((_SIGNED, signed.encode()))  # a tenth of the time that `headers` takes
        return answer

    def _check_queue(self, size: int = 0) -> None:
        if self.pending >= self.config.max_pending:
            raise full(self.config.max_pending)
        if self.pending_bytes + size > INCOMING_LARGEST * self.config.max_body_bytes:
            raise busy("the images that wait are too large together")

    async def counts(self) -> list[Metric]:
        """Return this replica's part of GET /metrics, for the replica that was asked."""
        experiment = experiment_families(self.replica, self.live.counts if self.live else None)
        return [*self.metrics.collect(self.pending), *experiment]

    def check_health(self) -> None:
        """Raise where this replica cannot answer. Serve calls it, and replaces a replica that raises."""
        self.inference.pin(busy=self.pending > self.config.max_pending * UNPINNED_FROM)
        self.inference.check_health()
