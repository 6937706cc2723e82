"""The Open Inference Protocol, version 2, over HTTP: what the clients of KServe and of Triton speak.

    GET  /v2/health/live, /v2/health/ready, /v2, /v2/models/pets, /v2/models/pets/ready
    POST /v2/models/pets/infer      {"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["…"]}]}

The one input is a list of encoded images: base64 texts in JSON, or raw bytes behind the JSON, as Triton's extension for
binary tensors has them (a header says how long the JSON is, and each image has its length before it). Answers are JSON.
https://github.com/kserve/open-inference-protocol and https://github.com/triton-inference-server/server, docs/protocol.

This module knows documents, and neither how a request is answered nor who may ask.
"""

from __future__ import annotations

import binascii
import struct
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raycls import __version__
from raycls.engines.predictor import Prediction
from raycls.serving.replica.answer import HTTPProblem
from raycls.serving.replica.request import check_count

BEGINNING = "/v2"
JSON_LENGTH = "inference-header-content-length"  # the header of a body with binary tensors: bytes of its JSON
INPUT = "image"
# Of an output: its type, its shape for n images and c classes, and its values for one image.
OUTPUTS: dict[str, tuple[str, Callable[[int, int], list[int]], Callable[[Prediction], list[Any]]]] = {
    "class_index": ("INT64", lambda n, _: [n], lambda found: [found.class_index]),
    "class_name": ("BYTES", lambda n, _: [n], lambda found: [found.class_name]),
    "confidence": ("FP32", lambda n, _: [n], lambda found: [found.confidence]),
    "probabilities": ("FP32", lambda n, c: [n, c], lambda found: found.probabilities.tolist()),
    "rejected": ("BOOL", lambda n, _: [n], lambda found: [bool(found.rejected)]),
}
REJECTED = "rejected"  # the output that only a version with a threshold has


class Place(NamedTuple):
    """What a path names. what: server, live, ready, model, model ready, or infer. model, version: "" for none."""

    what: str
    model: str = ""
    version: str = ""


class Tensor(BaseModel):
    """The input of a request. binary_data_size, a parameter: its bytes behind the JSON."""

    model_config = ConfigDict(extra="ignore")

    name: str
    shape: list[int] = Field(max_length=8)
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] = {}


class WantedOutput(BaseModel):
    """An output that a request names."""

    model_config = ConfigDict(extra="ignore")

    name: str


class Inference(BaseModel):
    """The JSON of a request."""

    model_config = ConfigDict(extra="ignore")

    id: str | None = Field(None, max_length=1000)
    inputs: list[Tensor] = Field(min_length=1, max_length=1)
    outputs: list[WantedOutput] = Field([], max_length=len(OUTPUTS))


class Asked(NamedTuple):
    """What a request wants: its images, encoded; its id; the names of outputs."""

    images: list[bytes]
    id: str | None
    outputs: list[str]


def is_path(path: str) -> bool:
    return path == BEGINNING or path.startswith(f"{BEGINNING}/")


def place_of(path: str) -> Place:
    """Return what a path below BEGINNING names. Raises HTTPProblem 404."""
    match path.removeprefix(BEGINNING).strip("/").split("/"):
        case [""]:
            return Place("server")
        case ["health", "live" | "ready" as health]:
            return Place(health)
        case ["models", model, *rest]:
            version = ""
            if rest[:1] == ["versions"] and len(rest) > 1:
                _, version, *rest = rest
            what = {(): "model", ("ready",): "model ready", ("infer",): "infer"}.get(tuple(rest))
            if what:
                return Place(what, model, version)
    raise HTTPProblem(404, f"there is no {path[:80]}: /openapi.json lists the routes")


def check_method(place: Place, method: str) -> None:
    """Raise HTTPProblem 405 for a method that the place does not take."""
    taken = ("POST",) if place.what == "infer" else ("GET", "HEAD")
    if method not in taken:
        raise HTTPProblem(405, f"this takes {taken[0]}", {"Allow": ", ".join(taken)})


def told(place: Place, name: str, version: str, classes: int, *, rejects: bool = False) -> dict[str, Any]:
    """Return the document about the server, its health, or its model. name, version, classes: the served model's.

    rejects: whether it has a threshold.
    """
    if place.what == "server":
        return {"name": "raycls", "version": __version__, "extensions": ["binary_tensor_data"]}
    if place.what != "model":
        return {"live" if place.what == "live" else "ready": True}
    return {
        "name": name,
        "versions": [version],
        "platform": "raycls",
        # -1: any number of images.
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}],
        "outputs": [
            {"name": output, "datatype": kind, "shape": shape(-1, classes)}
            for output, (kind, shape, _) in OUTPUTS.items()
            if rejects or output != REJECTED
        ],
    }


def asked_of(headers: Mapping[str, str], body: bytes, max_images: int) -> Asked:
    """Return what a request wants. headers: by their names in lower case. Raises HTTPProblem 400 and 413."""
    length = headers.get(JSON_LENGTH, str(len(body)))
    if not (length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= len(body)):
        raise HTTPProblem(400, f"{JSON_LENGTH} must be the bytes of the body's JSON, not {length[:40]!r}")
    text, binary = body[: int(length)], body[int(length) :]
    try:
        found = Inference.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise HTTPProblem(
            400, f"the body is no inference request: {where or 'it'}: {first['msg'][:200]}"
        ) from None
    (tensor,) = found.inputs
    if tensor.name != INPUT or tensor.datatype != "BYTES":
        raise HTTPProblem(
            400,
            f"the input is {INPUT!r} of datatype BYTES: encoded images, as JPEG or PNG; not {tensor.name[:40]!r}",
        )
    for output in found.outputs:
        if output.name not in OUTPUTS:
            raise HTTPProblem(
                400, f"there is no output {output.name[:40]!r}; there are: {', '.join(OUTPUTS)}"
            )
    images = _from_binary(binary, tensor, max_images) if binary else _from_json(tensor, max_images)
    count = 1
    for side in tensor.shape:
        count *= side
    if count != len(images):
        raise HTTPProblem(400, f"the shape {tensor.shape} is not that of {len(images)} images")
    return Asked(images, found.id, [output.name for output in found.outputs])


def _from_json(tensor: Tensor, max_images: int) -> list[bytes]:
    data = tensor.data or []
    if not data or not all(isinstance(each, str) for each in data):
        raise HTTPProblem(400, "data is a list of base64 texts, one for each image")
    check_count(len(data), max_images)  # before the first is decoded
    try:
        return [b64decode(each, validate=True) for each in data]
    except (binascii.Error, ValueError) as error:
        raise HTTPProblem(400, f"data is not valid base64: {error}") from None


def _from_binary(binary: bytes, tensor: Tensor, max_images: int) -> list[bytes]:
    """Return the images behind the JSON: each is its length, 4 bytes, the lowest first, and that many bytes."""
    if tensor.parameters.get("binary_data_size") != len(binary):
        raise HTTPProblem(400, f"binary_data_size must be {len(binary)}, the bytes behind the JSON")
    images: list[bytes] = []
    at = 0
    while at < len(binary):
        check_count(len(images) + 1, max_images)
        if at + 4 > len(binary):
            raise HTTPProblem(400, "the binary data ends within a length")
        (size,) = struct.unpack_from("<I", binary, at)
        if at + 4 + size > len(binary):
            raise HTTPProblem(400, "the binary data ends within an image")
        images.append(binary[at + 4 : at + 4 + size])
        at += 4 + size
    return images


def answer(asked: Asked, predictions: Sequence[Prediction], name: str, version: str) -> dict[str, Any]:
    """Return the document of an answer. Without names of outputs, it has all but the probabilities.

    A version without a threshold rejects nothing: it says so where the request names the output `rejected`.
    """
    rejects = predictions[0].rejected is not None
    left_out = {"probabilities"} if rejects else {"probabilities", REJECTED}
    wanted = asked.outputs or [output for output in OUTPUTS if output not in left_out]
    classes = len(predictions[0].classes)
    outputs = []
    for output in wanted:
        kind, shape, values = OUTPUTS[output]
        data = [value for prediction in predictions for value in values(prediction)]
        outputs.append(
            {"name": output, "datatype": kind, "shape": shape(len(predictions), classes), "data": data}
        )
    document = {"model_name": name, "model_version": version, "outputs": outputs}
    return document if asked.id is None else {"id": asked.id, **document}
