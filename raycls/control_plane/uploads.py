"""Routes about pictures that people send, and the queue in which they wait for a review."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from io import BytesIO
from typing import Literal, get_args

from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response

from raycls.cluster import environment
from raycls.control_plane import served
from raycls.control_plane.body import document_of, file_of, form_of, wanted_int, wanted_state
from raycls.control_plane.route import PICTURE_HEADERS, ControlRoute
from raycls.data.versions import open_dataset
from raycls.lifecycle import intake, review
from raycls.lifecycle.limits import UploadLimits
from raycls.lifecycle.records import State
from raycls.lifecycle.uploads import Uploads
from raycls.serving.replica.answer import HTTPProblem, json_response
from raycls.serving.settings import FORMATS

LIMITS = UploadLimits(formats=FORMATS)  # over HTTP, the formats that a prediction takes
# Decoding takes CPU: these threads take what predictions leave, and are few.
CHECKERS = ThreadPoolExecutor(2, "check uploads", initializer=environment.give_way_here)
ZIP = ("application/zip", "application/x-zip-compressed")


class Decision(BaseModel):
    """What POST /uploads/review takes. label: with relabel only."""

    model_config = ConfigDict(extra="forbid")

    dataset: str
    sha256: list[str] = Field(min_length=1, max_length=10_000)
    decision: Literal["accept", "reject", "relabel"]
    label: str = ""


async def upload(request: Request) -> Response:
    """Take pictures into the review queue: a form with `label` and files, or a zip of class folders."""
    uploads, limit = Uploads.of_process(), request.app.state.config.max_upload_bytes
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    by = request.state.by
    if kind in ZIP:
        name = request.query_params.get("dataset") or await served.dataset()
        async with file_of(request, limit) as file:
            answer = await _checked(partial(intake.add_zip, uploads, name, file, sender=by, limits=LIMITS))
        return json_response(answer.as_json())
    if kind != "multipart/form-data":
        raise HTTPProblem(415, "send multipart/form-data with label and file, or a zip as application/zip")
    async with form_of(request, limit) as form:
        files = [value for value in form.getlist("file") if isinstance(value, UploadFile)]
        archives = [value for value in form.getlist("archive") if isinstance(value, UploadFile)]
        label, given = form.get("label"), form.get("dataset")
        if isinstance(given, UploadFile):
            raise HTTPProblem(400, "the field dataset must be text")
        name = given or await served.dataset()
        if len(archives) == 1 and not files and label is None:
            archive = archives[0].file
            answer = await _checked(partial(intake.add_zip, uploads, name, archive, sender=by, limits=LIMITS))
            return json_response(answer.as_json())
        if not files or archives or not isinstance(label, str):
            raise HTTPProblem(
                400, "the form must have a label and files, as in curl -F label=cat -F file=@cat.png"
            )

        def take() -> intake.Answer:
            pictures = ((each.filename or "", each.file.read()) for each in files)
            return intake.add(uploads, name, pictures, label=label, sender=by, limits=LIMITS)

        return json_response((await _checked(take)).as_json())


async def _checked(take: Callable[[], intake.Answer]) -> intake.Answer:
    return await asyncio.get_running_loop().run_in_executor(CHECKERS, take)


async def list_queue(request: Request) -> Response:
    query = request.query_params
    name = query.get("dataset") or await served.dataset()
    state, page = wanted_state(query, get_args(State)), wanted_int(query, "page", 1)

    def listed() -> review.Page:
        return review.list_uploads(
            Uploads.of_process(),
            name,
            classes=open_dataset(name).info.classes,
            state=state,  # type: ignore[arg-type]
            sender=query.get("sender"),
            label=query.get("label"),
            page=page,
        )

    return json_response({"dataset": name, **(await run_in_threadpool(listed)).as_json()})


async def picture(request: Request) -> Response:
    """Return the bytes of a picture, for the page on which a person reviews it."""
    sha256 = request.path_params["sha256"]
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise HTTPProblem(404, "there is no such picture")
    try:
        data = await run_in_threadpool(Uploads.of_process().picture, sha256)
    except FileNotFoundError:
        raise HTTPProblem(404, "there is no such picture") from None
    kind = Image.open(BytesIO(data)).format or ""  # it was checked when it was stored
    return Response(
        data, media_type=Image.MIME.get(kind, "application/octet-stream"), headers=PICTURE_HEADERS
    )


async def decide(request: Request) -> Response:
    wanted, by = await document_of(request, Decision), request.state.by
    if (wanted.decision == "relabel") != bool(wanted.label):
        raise HTTPProblem(400, "relabel needs a label, and accept and reject have none")

    def decided() -> list[review.Record]:
        uploads, name = Uploads.of_process(), wanted.dataset
        if wanted.decision == "accept":
            return review.accept(uploads, name, wanted.sha256, by=by)
        if wanted.decision == "reject":
            return review.reject(uploads, name, wanted.sha256, by=by)
        classes = open_dataset(name).info.classes
        return [
            review.relabel(uploads, name, each, wanted.label, by=by, classes=classes)
            for each in wanted.sha256
        ]

    records = await run_in_threadpool(decided)
    return json_response({"uploads": [record.as_json() for record in records]})


async def purge(request: Request) -> Response:
    changed = await run_in_threadpool(
        review.purge, Uploads.of_process(), request.path_params["sha256"], by=request.state.by
    )
    return json_response({"purged": request.path_params["sha256"], "dataset_versions": changed})


_LISTED = {
    "dataset": "default: that of the served model",
    "state": f"{', '.join(get_args(State))} or all; default: waiting",
    "sender": "of this sender only",
    "label": "of this class only",
    "page": "from 1",
}
ROUTES = [
    ControlRoute(
        "POST",
        "/upload_training_data",
        "contribute",
        upload,
        "Send pictures for the next dataset version",
        queries={"dataset": "of a zip alone; default: that of the served model"},
        form={
            "label": "class of the pictures",
            "file": "a picture; can be repeated",
            "archive": "a zip of class folders, in place of label and file",
            "dataset": "default: that of the served model",
        },
    ),
    ControlRoute("GET", "/uploads", "admin", list_queue, "List a page of the review queue", queries=_LISTED),
    ControlRoute("GET", "/uploads/{sha256}/picture", "admin", picture, "Return the bytes of a picture"),
    ControlRoute("POST", "/uploads/review", "admin", decide, "Accept, reject or relabel pictures", Decision),
    ControlRoute("DELETE", "/uploads/{sha256}", "admin", purge, "Remove a picture everywhere"),
]
