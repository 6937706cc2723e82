"""Makes the images that tests send to /predict, and checks the responses and the metrics."""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import requests
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

if TYPE_CHECKING:
    from raycls.serving.control.deploy import Served

OCTETS = "application/octet-stream"


def encoded(
    seed: int = 0,
    mode: str = "RGB",
    kind: str = "PNG",
    size: tuple[int, int] = (37, 29),
    orientation: int | None = None,
) -> bytes:
    """Return a smooth random image as file bytes. JPEG would change noise too much. orientation: the EXIF value."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize(size, Image.Resampling.BICUBIC)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    (image if mode == "I;16" else image.convert(mode)).save(buffer, kind, exif=exif)
    return buffer.getvalue()


def base64_of(data: bytes) -> str:
    return base64.b64encode(data).decode()


def expect_problem(response: requests.Response, status: int, words: str) -> None:
    assert response.headers["content-type"] == "application/problem+json", response.text
    document = response.json()
    assert set(document) - {"request_id"} == {"type", "title", "status", "detail"}
    assert (response.status_code, document["status"]) == (status, status), document
    assert words in document["detail"]


def counted(served: Served) -> tuple[float, float]:
    """Return the number of batches and of images so far, from /metrics."""
    lines = requests.get(f"{served.url}/metrics", timeout=10).text.splitlines()
    values = {
        line.split("{")[0]: float(line.split()[-1])
        for line in lines
        if line.startswith("raycls_batch_images_")
    }
    return values["raycls_batch_images_count"], values["raycls_batch_images_sum"]


def await_pending(served: Served, count: int) -> None:
    """Wait until /metrics shows `count` pending requests. Fail after ten seconds."""
    deadline = time.monotonic() + 10
    while True:
        lines = requests.get(f"{served.url}/metrics", timeout=10).text.splitlines()
        held = sum(float(line.split()[-1]) for line in lines if line.startswith("raycls_pending{"))
        if held >= count:
            return
        assert time.monotonic() < deadline, f"{held} requests instead of {count}"
        time.sleep(0.01)


def until_status(status: int, post: Callable[..., requests.Response], query: str = "") -> requests.Response:
    """Return the first answer of that status, or the last one of twenty seconds."""
    deadline = time.monotonic() + 20
    while (answer := post(encoded(), query=query)).status_code != status and time.monotonic() < deadline:
        time.sleep(0.1)
    return answer


def samples(page: str, name: str) -> list[Sample]:
    """Return the samples of a series on a page of metrics, by its URL."""
    text = requests.get(page, timeout=10).text
    families = text_string_to_metric_families(text)
    return [sample for family in families for sample in family.samples if sample.name == name]
