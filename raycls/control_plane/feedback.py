"""Routes about feedback: what was right for an answer that a client got."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from raycls import registry
from raycls.control_plane import served
from raycls.control_plane.body import document_of, wanted_int, wanted_state
from raycls.control_plane.route import ControlRoute
from raycls.errors import UsageError
from raycls.lifecycle.feedback import Answered, Claims, Feedback, FeedbackState
from raycls.models.card import load_card
from raycls.serving import prediction_id, state
from raycls.serving.replica.answer import json_response

PAGE = 1000  # feedback on a page of the list


class Said(BaseModel):
    """What POST /feedback takes. position: of the picture, where a request had several."""

    model_config = ConfigDict(extra="forbid")

    prediction_id: str = Field(max_length=10_000)
    label: str
    position: int = Field(0, ge=0)


class Review(BaseModel):
    """What POST /feedback/review takes."""

    model_config = ConfigDict(extra="forbid")

    request_ids: list[str] = Field(min_length=1, max_length=10_000)
    decision: Literal["accepted", "rejected"]


async def say(request: Request) -> Response:
    said, by = await document_of(request, Said), request.state.by

    def kept() -> Answered:
        claims, classes = _claims(said)
        return Feedback.of_process().record(claims, said.label, sender=by, classes=classes)

    return json_response((await run_in_threadpool(kept)).as_json())


async def list_all(request: Request) -> Response:
    query = request.query_params
    only = wanted_state(query, get_args(FeedbackState))
    model = query.get("model") or (await served.version()).partition("/")[0]
    page = wanted_int(query, "page", 1)

    def found() -> dict[str, Any]:
        feedback = Feedback.of_process()
        listed = feedback.of(model, version=query.get("version"), state=only)  # type: ignore[arg-type]
        return {
            "feedback": [each.as_json() for each in listed[(page - 1) * PAGE : page * PAGE]],
            "total": len(listed),
            "accuracy": {version: each.as_json() for version, each in feedback.accuracy(model).items()},
        }

    return json_response(await run_in_threadpool(found))


async def review(request: Request) -> Response:
    wanted = await document_of(request, Review)
    decided = await run_in_threadpool(
        Feedback.of_process().review, wanted.request_ids, by=request.state.by, state=wanted.decision
    )
    return json_response({"feedback": [each.as_json() for each in decided]})


def _claims(said: Said) -> tuple[Claims, tuple[str, ...]]:
    """Return what the server had said, and the model's classes. Raises UsageError for an id that it has not issued."""
    issued = prediction_id.read(state.load().signing_key, said.prediction_id)
    if said.position >= len(issued.predicted):
        raise UsageError(f"the request had {len(issued.predicted)} pictures: position counts them from 0")
    index, confidence = issued.predicted[said.position]
    name, _, version = issued.model.partition("/")
    classes = _classes(issued.model)
    identifier = f"{hashlib.sha256(said.prediction_id.lower().encode()).hexdigest()[:32]}-{said.position}"
    claims = Claims(identifier, name, version, classes[index], confidence, issued.time.timestamp())
    return claims, classes


@lru_cache(maxsize=64)
def _classes(reference: str) -> tuple[str, ...]:
    return load_card(registry.checkpoint(registry.resolve(reference))).classes


_LISTED = {
    "model": "default: the one that is served",
    "version": "of this version only",
    "state": f"{', '.join(get_args(FeedbackState))} or all; default: waiting",
    "page": "from 1",
}
ROUTES = [
    ControlRoute("POST", "/feedback", "contribute", say, "Say what was right for an answer", Said),
    ControlRoute(
        "GET",
        "/feedback",
        "admin",
        list_all,
        "List a page of the feedback, the oldest first, and the accuracy by it",
        queries=_LISTED,
    ),
    ControlRoute("POST", "/feedback/review", "admin", review, "Accept or reject feedback", Review),
]
