"""Routes about files of a model version to take away: its report, and its exports.

POST /models/pets/versions/3/files/onnx       # begins to make it
GET /models/pets/versions/3/files             # what there is, and what is being made
GET /models/pets/versions/3/files/onnx        # the file
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from raycls import home, registry
from raycls.control_plane.route import ControlRoute
from raycls.control_plane.work import work_of
from raycls.errors import UnknownRecordError
from raycls.registry import ModelVersion
from raycls.reports.model_files import KINDS, file_name, write
from raycls.serving.replica.answer import HTTPProblem, json_response

KEPT = 20  # files; one that was removed is made again
ABANDONED_S = 3600.0  # for a folder in which a file is made


async def list_all(request: Request) -> Response:
    version = await run_in_threadpool(_version, request)
    return json_response({"files": [_shown(request, version, kind) for kind in KINDS]})


async def make(request: Request) -> Response:
    version, kind = await run_in_threadpool(_version, request), _kind(request)
    await run_in_threadpool(_tidy)
    work_of(request).begin(_name(version, kind), write, version.reference, kind, _path(version, kind))
    return json_response(_shown(request, version, kind))


async def send(request: Request) -> Response:
    version, kind = await run_in_threadpool(_version, request), _kind(request)
    path = _path(version, kind)
    found = _stat(path)
    if found is None:
        raise UnknownRecordError(f"{version.reference} has no {kind} yet: POST here makes it")
    # No browser opens it as a page of this server.
    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file_name(version, kind), safe='')}",
        "X-Content-Type-Options": "nosniff",
    }
    return FileResponse(path, media_type="application/octet-stream", headers=headers, stat_result=found)


def _version(request: Request) -> ModelVersion:
    return registry.resolve("{name}/{version}".format(**request.path_params))


def _kind(request: Request) -> str:
    kind: str = request.path_params["kind"]
    if kind not in KINDS:
        raise HTTPProblem(404, f"there is no such file of a version; there are: {', '.join(KINDS)}")
    return kind


def _shown(request: Request, version: ModelVersion, kind: str) -> dict[str, Any]:
    found = _stat(_path(version, kind))
    return {
        "kind": kind,
        "file": file_name(version, kind),
        "bytes": found.st_size if found else None,
        "made": found.st_mtime if found else None,
        **work_of(request).state(_name(version, kind), ready=found is not None),
    }


def _path(version: ModelVersion, kind: str) -> Path:
    """Return where the file is. A version that is registered again has other weights, and another file."""
    key = hashlib.sha256(f"{version.reference} {version.sha256} {kind}".encode()).hexdigest()
    return _folder() / key[:32]


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _folder() -> Path:
    return home.home() / "model-files"


def _tidy() -> None:
    """Make place for another file: the oldest go, and folders that a killed process has left."""
    _folder().mkdir(parents=True, exist_ok=True)
    found = [(each.st_mtime, path) for path in _folder().iterdir() if (each := _stat(path))]
    folders = [(changed, path) for changed, path in found if path.is_dir()]
    for changed, path in folders:
        if changed < time.time() - ABANDONED_S:
            shutil.rmtree(path, ignore_errors=True)
    files = sorted(each for each in found if each not in folders)
    for _, path in files[: max(0, len(files) - KEPT + 1)]:
        path.unlink(missing_ok=True)


def _name(version: ModelVersion, kind: str) -> str:
    return f"{kind} of {version.reference}"


ROUTES = [
    ControlRoute(
        "GET",
        "/models/{name}/versions/{version}/files",
        "admin",
        list_all,
        "List the report and the exports of a version: those that there are, and those that are being made",
    ),
    ControlRoute(
        "POST",
        "/models/{name}/versions/{version}/files/{kind}",
        "admin",
        make,
        f"Make one of them: {', '.join(KINDS)}",
    ),
    ControlRoute(
        "GET", "/models/{name}/versions/{version}/files/{kind}", "admin", send, "Return one of them"
    ),
]
