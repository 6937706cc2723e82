"""Routes about zips that arrive in pieces, so that a broken upload goes on, and whose check can be followed.

POST /parcels {"name": "photos.zip", "size": 5000000}     # {"id": …}
PUT /parcels/ID?at=0                                      # a piece of the file, until all of it is here
GET /parcels/ID                                           # checked 4,200 of 10,000; then what was taken
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from raycls import home
from raycls.control_plane import served
from raycls.control_plane.body import document_of, file_of
from raycls.control_plane.loop import forever
from raycls.control_plane.route import ControlRoute
from raycls.control_plane.uploads import CHECKERS, LIMITS
from raycls.data.versions import open_dataset
from raycls.errors import RayclsError, UnknownRecordError
from raycls.lifecycle import intake
from raycls.lifecycle.parcels import NAME_CHARACTERS, Parcel, Parcels
from raycls.lifecycle.uploads import Uploads
from raycls.serving.replica.answer import HTTPProblem, json_response

PIECE = 8 << 20  # most bytes of one piece
TIDY_S = 3600.0

logger = logging.getLogger("ray.serve")


class Announced(BaseModel):
    """What POST /parcels takes. dataset: default: that of the served model."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=NAME_CHARACTERS)
    size: int = Field(ge=1, description="bytes")
    dataset: str = ""


class Checks:
    """The parcels of this process, and how far the check of each is."""

    def __init__(self, most_bytes: int):
        self.parcels = Parcels(home.home() / "parcels", most_bytes)
        self._checked: dict[str, tuple[int, int]] = {}  # of the parcels that are checked now
        self._tasks: set[asyncio.Future[None]] = set()

    async def run(self) -> None:
        """Check what a former process of the control plane left unchecked; remove what is old, now and every hour."""
        for parcel in await run_in_threadpool(self.parcels.tidy):
            self.follow(parcel)
        await forever(TIDY_S, self._tidy, "remove old uploads")

    async def _tidy(self) -> None:
        await run_in_threadpool(self.parcels.tidy)

    def follow(self, parcel: Parcel) -> Response:
        """Begin the check of a parcel that is whole, where it has not begun. Answer its state."""
        if parcel.state == "checking" and parcel.id not in self._checked:
            self._checked[parcel.id] = (0, 0)
            task = asyncio.get_running_loop().run_in_executor(CHECKERS, self._check, parcel.id)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        checked, of = self._checked.get(parcel.id, (0, 0))
        return json_response({**parcel.model_dump(), "checked": checked, "of": of})

    def _check(self, identifier: str) -> None:
        def told(checked: int, of: int) -> None:
            self._checked[identifier] = (checked, of)

        answer, error = None, "the server failed on this upload; its log says why"
        try:
            parcel = self.parcels.load(identifier)
            if parcel.state != "checking":  # it ended while a request still had its former state
                return
            with self.parcels.open(identifier) as file:
                taken = intake.add_zip(
                    Uploads.of_process(),
                    parcel.dataset,
                    file,
                    sender=parcel.sender,
                    limits=LIMITS,
                    told=told,
                )
            answer, error = taken.as_json(), ""
        except RayclsError as refused:
            error = str(refused)
        except Exception:
            logger.exception("raycls failed on an upload")
        try:
            self.parcels.end(identifier, answer=answer, error=error)
        except RayclsError:
            logger.exception("raycls could not write what became of an upload")
            return  # it counts as under way, so that it is not checked again and again
        del self._checked[identifier]


async def begin(request: Request) -> Response:
    wanted = await document_of(request, Announced)
    dataset = intake.check_dataset(wanted.dataset or await served.dataset())
    await run_in_threadpool(open_dataset, dataset)  # one that does not exist is said now
    parcel = await run_in_threadpool(
        _checks(request).parcels.begin, request.state.by, dataset, wanted.name, wanted.size
    )
    return _checks(request).follow(parcel)


async def append(request: Request) -> Response:
    parcel, at = await _own(request), request.query_params.get("at", "")
    if not (at.isascii() and at.isdigit() and len(at) < 16):
        raise HTTPProblem(400, "at must be the place of the piece's first byte, from 0")
    async with file_of(request, PIECE) as file:
        data = await run_in_threadpool(file.read)
    changed = await run_in_threadpool(partial(_checks(request).parcels.append, parcel.id, int(at), data))
    return _checks(request).follow(changed)


async def show(request: Request) -> Response:
    return _checks(request).follow(await _own(request))


async def remove(request: Request) -> Response:
    parcel = await _own(request)
    await run_in_threadpool(_checks(request).parcels.remove, parcel.id)
    return json_response({"removed": parcel.id})


async def _own(request: Request) -> Parcel:
    """Return the parcel of the path. Raises UnknownRecordError also where it is another sender's."""
    parcel = await run_in_threadpool(_checks(request).parcels.load, request.path_params["id"])
    if parcel.sender != request.state.by:
        raise UnknownRecordError("there is no such upload")
    return parcel


def _checks(request: Request) -> Checks:
    found: Checks = request.app.state.checks
    return found


ROUTES = [
    ControlRoute(
        "POST",
        "/parcels",
        "contribute",
        begin,
        "Begin an upload of a zip of class folders, in pieces",
        Announced,
    ),
    ControlRoute(
        "PUT",
        "/parcels/{id}",
        "contribute",
        append,
        f"Send a piece, of at most {PIECE >> 20} MiB, of the zip; the last one begins its check",
        queries={"at": "place of the piece's first byte in the zip, from 0"},
    ),
    ControlRoute(
        "GET",
        "/parcels/{id}",
        "contribute",
        show,
        "Show what has arrived, how far its check is, and what was taken",
    ),
    ControlRoute("DELETE", "/parcels/{id}", "contribute", remove, "Forget an upload"),
]
