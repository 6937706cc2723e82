"""The request forms: how each kind of server takes an image, and where its answer names the class.

form = FORMS["base64"]
request = form.wrap(EncodedImage(png, "image/png", "cat"))      # .body is b'{"image_data": "iVBORw0…"}'
form.named({"class_name": "cat"})                               # "cat"
"""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Callable
from typing import Any, NamedTuple

from raycls.benchmark.images import EncodedImage

BOUNDARY = "raycls-load-boundary"
JSON = "application/json"


class Form(NamedTuple):
    """wrap turns an image into a request's body and content type. named reads the class from a JSON answer."""

    wrap: Callable[[EncodedImage], EncodedImage]
    named: Callable[[Any], str]


def _raw(image: EncodedImage) -> EncodedImage:
    return image


def _base64(image: EncodedImage) -> EncodedImage:
    document = {"image_data": b64encode(image.body).decode()}
    return image._replace(body=json.dumps(document).encode(), content_type=JSON)


def _inputs(image: EncodedImage) -> EncodedImage:
    document = {"inputs": [b64encode(image.body).decode()]}
    return image._replace(body=json.dumps(document).encode(), content_type=JSON)


def _multipart(image: EncodedImage) -> EncodedImage:
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="images"; filename="image"\r\n'
    head += f"Content-Type: {image.content_type}\r\n\r\n"
    body = head.encode() + image.body + f"\r\n--{BOUNDARY}--\r\n".encode()
    return image._replace(body=body, content_type=f"multipart/form-data; boundary={BOUNDARY}")


FORMS = {
    "raw": Form(_raw, lambda answer: answer["class_name"]),
    "base64": Form(_base64, lambda answer: answer["class_name"]),
    "multipart": Form(_multipart, lambda answer: answer[0]["class_name"]),
    "inputs": Form(_inputs, lambda answer: answer["predictions"][0]["class_name"]),
}
