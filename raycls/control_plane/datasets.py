"""Routes about dataset versions: counts, what was left out, and a sheet of their pictures."""

from __future__ import annotations

import io
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from raycls.control_plane.route import PICTURE_HEADERS, ControlRoute
from raycls.data.contact_sheet import contact_sheet
from raycls.data.manifest import read_left_out
from raycls.data.packed import PackedDataset
from raycls.data.versions import list_datasets, open_dataset
from raycls.serving.replica.answer import HTTPProblem, json_response


async def list_all(request: Request) -> Response:
    def found() -> list[dict[str, Any]]:
        return [
            {
                "name": info.name,
                "version": info.version,
                "classes": len(info.classes),
                "counts": info.counts,
                "image_size": info.image_size,
                "left_out": info.left_out,
                "source": info.source,
                "fingerprint": info.fingerprint,
            }
            for info in list_datasets()
        ]

    return json_response({"datasets": await run_in_threadpool(found)})


async def show(request: Request) -> Response:
    def found() -> dict[str, Any]:
        opened = _opened(request)
        return {**opened.info.model_dump(mode="json"), "left_out_files": read_left_out(opened).to_pylist()}

    return json_response(await run_in_threadpool(found))


async def sheet(request: Request) -> Response:
    def made() -> bytes:
        buffer = io.BytesIO()
        contact_sheet(_opened(request)).save(buffer, "PNG")
        return buffer.getvalue()

    return Response(await run_in_threadpool(made), media_type="image/png", headers=PICTURE_HEADERS)


def _opened(request: Request) -> PackedDataset:
    name, version = request.path_params["name"], request.path_params["version"]
    if not (version.isascii() and version.isdigit() and len(version) < 10):
        raise HTTPProblem(404, "there is no such dataset version: list those that exist")
    return open_dataset(f"{name}@{version}")


ROUTES = [
    ControlRoute("GET", "/datasets", "admin", list_all, "List the dataset versions"),
    ControlRoute(
        "GET",
        "/datasets/{name}/{version}",
        "admin",
        show,
        "Show a version: counts, options, what was left out",
    ),
    ControlRoute(
        "GET",
        "/datasets/{name}/{version}/sheet",
        "admin",
        sheet,
        "Return a sheet of its pictures by class, as PNG",
    ),
]
