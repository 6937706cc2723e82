"""Requests and answers of the Open Inference Protocol: what is read, what is refused, and what is answered."""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from typing import Any

import numpy as np
import pytest

from raycls.engines.predictor import Prediction
from raycls.serving.replica.answer import HTTPProblem
from raycls.serving.replica.open_inference import (
    JSON_LENGTH,
    OUTPUTS,
    answer,
    asked_of,
    check_method,
    is_path,
    place_of,
    told,
)

IMAGES = [b"one \xff\x00", b"two"]
CLASSES = ("cat", "dog", "owl")


def _tensor(**other: Any) -> dict[str, Any]:
    data = [b64encode(image).decode() for image in IMAGES]
    return {"name": "image", "shape": [2], "datatype": "BYTES", "data": data, **other}


def _body(tensor: dict[str, Any], **other: Any) -> bytes:
    return json.dumps({"inputs": [tensor], **other}).encode()


def _binary(images: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(image)) + image for image in images)


def _with_binary(
    binary: bytes, *, size: int | None = None, shape: list[int] | None = None
) -> tuple[bytes, bytes]:
    tensor = _tensor(
        parameters={"binary_data_size": len(binary) if size is None else size}, shape=shape or [2]
    )
    del tensor["data"]
    return _body(tensor), binary


def test_images_come_as_base64_texts_or_as_bytes_behind_the_json() -> None:
    asked = asked_of({}, _body(_tensor(), id="7", outputs=[{"name": "class_name"}]), 8)
    assert asked == (IMAGES, "7", ["class_name"])
    text, binary = _with_binary(_binary(IMAGES))
    assert asked_of({JSON_LENGTH: str(len(text))}, text + binary, 8) == (IMAGES, None, [])
    assert asked_of({}, _body(_tensor(shape=[2, 1])), 8).images == IMAGES


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"[", "no inference request"),
        (b"[" * 100_000, "no inference request"),
        (b"{}", "inputs"),
        (b'{"inputs": []}', "inputs"),
        (_body(_tensor(name="x")), "the input is 'image'"),
        (_body(_tensor(datatype="FP32")), "the input is 'image'"),
        (_body(_tensor(shape=[3])), "not that of 2 images"),
        (_body(_tensor(shape=[-2])), "not that of 2 images"),
        (_body(_tensor(data=["no base64!", "x"])), "not valid base64"),
        (_body(_tensor(data=[1, 2])), "base64 texts"),
        (_body(_tensor(data=None)), "base64 texts"),
        (_body(_tensor(), outputs=[{"name": "logits"}]), "there is no output 'logits'"),
        (_body(_tensor(), outputs=[{"name": "class_name"}] * 9), "outputs"),
    ],
)
def test_what_cannot_be_served_is_said(body: bytes, words: str) -> None:
    with pytest.raises(HTTPProblem, match=words) as caught:
        asked_of({}, body, 8)
    assert caught.value.status == 400


@pytest.mark.parametrize("length", ["", "-1", "x", "99999999999", "²"])
def test_a_wrong_length_of_the_json_is_said(length: str) -> None:
    with pytest.raises(HTTPProblem, match="bytes of the body's JSON"):
        asked_of({JSON_LENGTH: length}, _body(_tensor()), 8)


@pytest.mark.parametrize(
    ("binary", "size", "words"),
    [
        (_binary(IMAGES), 3, "binary_data_size must be"),
        (_binary(IMAGES)[:-1], None, "ends within an image"),
        (_binary(IMAGES) + b"\x01\x00", None, "ends within a length"),
        (b"\xff\xff\xff\xff", None, "ends within an image"),
    ],
)
def test_bytes_that_end_too_early_are_said(binary: bytes, size: int | None, words: str) -> None:
    text, binary = _with_binary(binary, size=size)
    with pytest.raises(HTTPProblem, match=words):
        asked_of({JSON_LENGTH: str(len(text))}, text + binary, 8)


def test_more_images_than_one_request_may_have_are_refused_before_they_are_read() -> None:
    with pytest.raises(HTTPProblem) as caught:
        asked_of({}, _body(_tensor()), 1)
    assert caught.value.status == 413
    text, binary = _with_binary(_binary([b""] * 1000), shape=[1000])
    with pytest.raises(HTTPProblem) as caught:
        asked_of({JSON_LENGTH: str(len(text))}, text + binary, 8)
    assert caught.value.status == 413


def test_an_answer_has_the_outputs_that_were_asked_for() -> None:
    row = np.array([0.5, 0.25, 0.25], np.float32)
    found = [Prediction(0, "cat", 0.5, row, row, CLASSES)] * 2
    usual = answer(asked_of({}, _body(_tensor(), id="7"), 8), found, "pets", "3")
    assert (usual["id"], usual["model_name"], usual["model_version"]) == ("7", "pets", "3")
    assert [output["name"] for output in usual["outputs"]] == ["class_index", "class_name", "confidence"]
    (one,) = answer(
        asked_of({}, _body(_tensor(), outputs=[{"name": "probabilities"}]), 8), found, "pets", "3"
    )["outputs"]
    assert one == {
        "name": "probabilities",
        "datatype": "FP32",
        "shape": [2, 3],
        "data": [0.5, 0.25, 0.25] * 2,
    }


@pytest.mark.parametrize(
    ("path", "place"),
    [
        ("/v2", ("server", "", "")),
        ("/v2/", ("server", "", "")),
        ("/v2/health/live", ("live", "", "")),
        ("/v2/health/ready", ("ready", "", "")),
        ("/v2/models/pets", ("model", "pets", "")),
        ("/v2/models/pets/versions/3", ("model", "pets", "3")),
        ("/v2/models/pets/ready", ("model ready", "pets", "")),
        ("/v2/models/pets/versions/3/infer", ("infer", "pets", "3")),
    ],
)
def test_a_path_names_a_place(path: str, place: tuple[str, str, str]) -> None:
    assert is_path(path)
    assert place_of(path) == place
    check_method(place_of(path), "POST" if place[0] == "infer" else "GET")
    with pytest.raises(HTTPProblem) as caught:
        check_method(place_of(path), "GET" if place[0] == "infer" else "POST")
    assert caught.value.status == 405


@pytest.mark.parametrize(
    "path", ["/v2/x", "/v2/models", "/v2/models/a/b", "/v2/models/a/versions", "/v2/health"]
)
def test_other_paths_name_none(path: str) -> None:
    with pytest.raises(HTTPProblem) as caught:
        print(place_of(path))
    assert caught.value.status == 404


def test_the_document_of_the_model_names_what_an_answer_has() -> None:
    document = told(place_of("/v2/models/pets"), "pets", "3", classes=3)
    outputs = document["outputs"]
    assert [output["name"] for output in outputs] == [name for name in OUTPUTS if name != "rejected"]
    assert outputs[-1]["shape"] == [-1, 3]
    rejecting = told(place_of("/v2/models/pets"), "pets", "3", classes=3, rejects=True)
    assert rejecting["outputs"] == [*outputs, {"name": "rejected", "datatype": "BOOL", "shape": [-1]}]


def test_only_a_version_with_a_threshold_says_what_it_rejects() -> None:
    row = np.array([0.5, 0.25, 0.25], np.float32)
    without = [Prediction(0, "cat", 0.5, row, row, CLASSES)] * 2
    rejecting = [
        each._replace(rejected=rejected) for each, rejected in zip(without, (True, False), strict=True)
    ]
    wanted = asked_of({}, _body(_tensor(), outputs=[{"name": "rejected"}]), 8)
    (one,) = answer(wanted, rejecting, "pets", "3")["outputs"]
    assert one == {"name": "rejected", "datatype": "BOOL", "shape": [2], "data": [True, False]}
    usual = answer(asked_of({}, _body(_tensor()), 8), rejecting, "pets", "3")
    assert usual["outputs"][-1] == one
    # A challenger without a threshold answers a client who has read that the champion has one.
    (one,) = answer(wanted, without, "pets", "3")["outputs"]
    assert one["data"] == [False, False]
    assert "rejected" not in {
        each["name"] for each in answer(wanted._replace(outputs=[]), without, "pets", "3")["outputs"]
    }
