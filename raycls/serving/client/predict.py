"""Predict image files: by a server over HTTP, or by a registered model in this process.

    predict("http://127.0.0.1:8000", [Path("cat.png")])     predict("cifar10", [Path("cat.png")])

Both return the same answers: the fields of the HTTP contract with model_version.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from raycls import registry
from raycls.errors import ClusterError, ImageError, RayclsError, UsageError
from raycls.serving import auth
from raycls.serving.client.answers import answered

TIMEOUT_S = 60


def predict(target: str, paths: Sequence[Path], *, top_k: int = 0) -> list[dict[str, Any]]:
    """Return one answer for each file, in order.

    Raises UsageError for a file that cannot be read, ImageError (naming the file) for one that is no image,
    ClusterError when the server does not answer, UnknownModelError.
    """
    images = []
    for path in paths:
        try:
            images.append(path.read_bytes())
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
    if target.startswith(("http://", "https://")):
        return [
            over_http(target, data, top_k=top_k, name=str(path))
            for path, data in zip(paths, images, strict=True)
        ]
    from raycls.engines.build import best_device, fitting
    from raycls.engines.predictor import Predictor

    version = registry.resolve(target)
    engine = fitting(version.engine, best_device())
    predictor = Predictor.load(registry.checkpoint(version), engine=engine)
    answers = []
    for path, data in zip(paths, images, strict=True):
        try:
            (prediction,) = predictor.predict([data])
        except ImageError as error:
            raise type(error)(f"{path}: {error}") from None
        answers.append(prediction.as_json(top_k) | {"model_version": version.version})
    return answers


def over_http(url: str, data: bytes, *, top_k: int = 0, name: str = "image") -> dict[str, Any]:
    """POST one encoded image as a raw body, with RAYCLS_TOKEN, and return the answer.

    Raises UsageError where the token would travel unencrypted, and ImageError or ClusterError with the words of the
    problem document.
    """
    endpoint = url.rstrip("/")
    endpoint = endpoint if endpoint.endswith("/predict") else f"{endpoint}/predict"
    response, document = answered(
        "POST",
        endpoint,
        data=data,
        params={"top_k": top_k} if top_k else None,
        headers={"Content-Type": "application/octet-stream", **auth.headers(endpoint)},
        timeout=TIMEOUT_S,
    )
    if response.ok:
        return document
    problem: type[RayclsError] = ImageError if response.status_code in (400, 413, 415) else ClusterError
    raise problem(f"{name}: {document.get('detail') or document.get('title')} (HTTP {response.status_code})")
