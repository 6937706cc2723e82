"""Routes about dataset versions: counts, what was left out, what is new, what a check found, and pictures."""

from __future__ import annotations

import io
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from raycls.control_plane import served
from raycls.control_plane.body import wanted_int
from raycls.control_plane.route import PICTURE_HEADERS, ControlRoute
from raycls.control_plane.work import work_of
from raycls.data.contact_sheet import contact_sheet
from raycls.data.layout import versions_of
from raycls.data.manifest import difference, read_left_out, read_rows
from raycls.data.packed import NAME, PackedDataset, PixelStore, read
from raycls.data.versions import list_datasets, open_dataset
from raycls.reports import last_check
from raycls.reports.pictures import png
from raycls.serving.replica.answer import HTTPProblem, json_response

KEPT = 4  # encoded splits that stay open between two pictures
DIFFERENT = 100  # pictures of each kind that an answer about differences names


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


async def show_served(request: Request) -> Response:
    return json_response({"name": await served.dataset_or_none()})


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


async def picture(request: Request) -> Response:
    """Return one picture, as networks see it."""

    def made() -> bytes:
        opened, split, row = _opened(request), request.path_params["split"], request.path_params["row"]
        count = opened.info.counts.get(split, 0)
        if not (row.isascii() and row.isdigit() and len(row) < 10 and int(row) < count):
            raise HTTPProblem(404, f"{opened.info.reference} has no picture {row[:20]} in {split[:20]}")
        return png(_images(opened, split)[int(row)])

    return Response(await run_in_threadpool(made), media_type="image/png", headers=PICTURE_HEADERS)


async def differences(request: Request) -> Response:
    def found() -> dict[str, Any]:
        opened = _opened(request)
        since = wanted_int(request.query_params, "since", max(1, opened.info.version - 1))
        former = _on_this_machine(opened.info.name, str(since))
        kinds = asdict(difference(read_rows(former), read_rows(opened)))
        return {
            "since": since,
            **{kind: {"count": len(images), "first": images[:DIFFERENT]} for kind, images in kinds.items()},
        }

    return json_response(await run_in_threadpool(found))


async def show_check(request: Request) -> Response:
    opened = await run_in_threadpool(_opened, request)
    return json_response(await _checked(request, opened))


async def check(request: Request) -> Response:
    """Begin a check with the predictions of the dataset's champion."""
    opened = await run_in_threadpool(_opened, request)
    work_of(request).begin(_check_of(opened), _check, opened.info.reference)
    return json_response(await _checked(request, opened))


async def _checked(request: Request, opened: PackedDataset) -> dict[str, Any]:
    last = await run_in_threadpool(last_check.load, opened)
    return {**work_of(request).state(_check_of(opened), ready=last is not None), "last": last}


def _check(reference: str) -> None:
    from raycls.reports.dataset_check import check_with_champion  # imports PyTorch

    check_with_champion(reference)


def _check_of(opened: PackedDataset) -> str:
    return f"check of {opened.info.reference}"


def _opened(request: Request) -> PackedDataset:
    name, version = request.path_params["name"], request.path_params["version"]
    return _on_this_machine(name, version)


def _images(opened: PackedDataset, split: str) -> PixelStore:
    if opened.info.store == "packed":
        return opened.images(split)
    return _encoded_images(opened.path, opened.info.fingerprint, opened.info.reference, split)


@lru_cache(maxsize=KEPT)
def _encoded_images(path: Path, fingerprint: str, reference: str, split: str) -> PixelStore:
    """Return the images of a split with this fingerprint. They keep the blocks of the pictures beside each other."""
    return read(path, reference).images(split)


def _on_this_machine(name: str, version: str) -> PackedDataset:
    """Open a version. What is in the bucket alone is not pulled, because somebody looks at a page."""
    is_number = version.isascii() and version.isdigit() and len(version) < 10
    if not (is_number and NAME.fullmatch(name) and int(version) in versions_of(name)):
        raise HTTPProblem(404, "there is no such dataset version on the server: list those that exist")
    return open_dataset(f"{name}@{version}")


ROUTES = [
    ControlRoute(
        "GET",
        "/datasets",
        "admin",
        list_all,
        "List the dataset versions",
    ),
    ControlRoute(
        "GET", "/datasets/served", "admin", show_served, "Name the dataset that the served model learned from"
    ),
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
    ControlRoute(
        "GET",
        "/datasets/{name}/{version}/pictures/{split}/{row}",
        "admin",
        picture,
        "Return one picture of a split, as PNG",
    ),
    ControlRoute(
        "GET",
        "/datasets/{name}/{version}/differences",
        "admin",
        differences,
        "List which pictures were added, removed, relabelled or moved since another version",
        queries={"since": "number of a version; default: the one before"},
    ),
    ControlRoute(
        "GET",
        "/datasets/{name}/{version}/check",
        "admin",
        show_check,
        "Show what the last check of a version found, and whether one is under way",
    ),
    ControlRoute(
        "POST",
        "/datasets/{name}/{version}/check",
        "admin",
        check,
        "Begin a check of a version: labels, copies, pictures, classes and splits",
    ),
]
