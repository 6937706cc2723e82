"""Predict image files: by a server over HTTP, or by a registered model in this process.

    predict("http://127.0.0.1:8000", [Path("cat.png")])     predict("cifar10", [Path("cat.png")])

Both yield the same answers: the fields of the HTTP contract with model_version.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from raycls import registry
from raycls.errors import ClusterError, ImageError, RayclsError, UsageError
from raycls.serving import auth
from raycls.serving.client.answers import answered

TIMEOUT_S = 60


def predict(
    target: str, paths: Sequence[Path], *, top_k: int = 0
) -> Iterator[dict[str, Any] | UsageError | ImageError]:
    """Yield one answer for each file, in order.

    In place of an answer there is a UsageError for a file that cannot be read, and an ImageError for one that cannot be
    classified; both name the file. Raises ClusterError when the server does not answer, and UnknownModelError.
    """
    classify = None
    for path in paths:
        try:
            data = path.read_bytes()
        except OSError as error:
            yield UsageError(f"cannot read {path}: {error.strerror}")
            continue
        if classify is None:
            over_the_net = target.startswith(("http://", "https://"))
            classify = _of_server(target, top_k) if over_the_net else _of_model(target, top_k)
        try:
            yield classify(data)
        except ImageError as error:
            yield type(error)(f"{path}: {error}")


def _of_server(url: str, top_k: int) -> Callable[[bytes], dict[str, Any]]:
    return lambda data: over_http(url, data, top_k=top_k)


def _of_model(reference: str, top_k: int) -> Callable[[bytes], dict[str, Any]]:
    from raycls.engines.predictor import Predictor

    version = registry.resolve(reference)
    engine = registry.engine_to_serve(version)
    predictor = Predictor.load(registry.checkpoint(version), engine=engine, rejection=version.rejection)

    def classify(data: bytes) -> dict[str, Any]:
        (prediction,) = predictor.predict([data])
        return prediction.as_json(top_k) | {"model_version": version.version}

    return classify


def over_http(url: str, data: bytes, *, top_k: int = 0) -> dict[str, Any]:
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
    raise problem(f"{document.get('detail') or document.get('title')} (HTTP {response.status_code})")
