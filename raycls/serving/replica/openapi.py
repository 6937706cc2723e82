"""The OpenAPI 3.1 document of the classifier: GET /openapi.json.

document(classes=("cat", "dog"), config=ServingConfig())
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from raycls.ray_patches.haproxy_template import PREFIX
from raycls.serving.prediction_id import HEADER as PREDICTION_ID
from raycls.serving.replica.explainer import MOST_AT_ONCE
from raycls.serving.replica.open_inference import BEGINNING, Inference
from raycls.serving.settings import ServingConfig

_BINARY = {"type": "string", "format": "binary"}
_BASE64 = {"type": "string", "contentEncoding": "base64"}
DESCRIPTION = (
    "An image classifier. All paths are also there below /models/NAME and /models/NAME/versions/VERSION."
)
_PROBLEMS = {
    400: "the request or an image in it is damaged",
    401: "the server's token is missing",
    403: "the token has another role",
    404: "the server has no such model or version",
    408: "the body took too long",
    413: "too many bytes, pixels, images, or images to explain",
    415: "no image, or a content type that is not accepted",
    421: "the server is not called so: see allowed_hosts",
    429: "too many requests are waiting, or predictions left no core for an explanation: see Retry-After",
    431: "too many bytes of headers",
    500: "the server failed; its log says why",
    502: "the replica that worked on the request ended",
    503: "no model is ready, no memory for an image, or the explaining process ended",
    504: "no answer in time",
}


def document(classes: Sequence[str], config: ServingConfig) -> dict[str, Any]:
    """Return the whole document. classes: the served model's. config: its limits."""
    scheme = {"token": {"type": "http", "scheme": "bearer"}} if config.token_sha256 else {}
    guarded: dict[str, Any] = {"security": [{"token": []}]} if scheme else {}
    return {
        "openapi": "3.1.0",
        "info": {"title": "raycls", "description": DESCRIPTION, "version": "1"},
        "externalDocs": {"url": f"{PREFIX}/openapi.json", "description": "the routes that manage the server"},
        "paths": {
            "/predict": {"post": _predict(config) | guarded},
            "/livez": {"get": _get("the process answers", "text/plain", {"type": "string"})},
            "/readyz": {"get": _get("its model is ready", "text/plain", {"type": "string"})},
            "/health": {"get": _get("the model that answers", "application/json", {"type": "object"})},
            "/metrics": {"get": _get("Prometheus text", "text/plain", {"type": "string"}, 401) | guarded},
            **_open_inference(guarded),
            "/openapi.json": {"get": _get("this document", "application/json", {"type": "object"})},
        },
        "components": {"schemas": _schemas(list(classes)) | _of_inference(), "securitySchemes": scheme},
    }


def _open_inference(guarded: dict[str, Any]) -> dict[str, Any]:
    """Return the paths of raycls/serving/replica/open_inference.py. The version in a path may be left out."""
    named = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in ("model", "version")
    ]
    model = f"{BEGINNING}/models/{{model}}/versions/{{version}}"
    told = {"type": "object"}
    return {
        f"{BEGINNING}/health/live": {"get": _get("the process answers", "application/json", told)},
        f"{BEGINNING}/health/ready": {"get": _get("its model is ready", "application/json", told)},
        BEGINNING: {"get": _get("what the server is", "application/json", told)},
        model: {"get": _get("inputs and outputs of the model", "application/json", told, 404)}
        | {"parameters": named},
        f"{model}/ready": {"get": _get("the model is ready", "application/json", told, 404)}
        | {"parameters": named},
        f"{model}/infer": {
            "parameters": named,
            "post": {
                "summary": "Classify images: the Open Inference Protocol, version 2",
                "requestBody": {
                    "required": True,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Inference"}}},
                },
                "responses": {
                    "200": {
                        "description": "a tensor for each output",
                        "content": {"application/json": {"schema": told}},
                    },
                    **{str(status): _problem(status) for status in _PROBLEMS},
                },
            }
            | guarded,
        },
    }


def _of_inference() -> dict[str, Any]:
    """Return the schema of a request of the Open Inference Protocol, and of its parts, by name."""
    schema = Inference.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**schema.pop("$defs"), "Inference": schema}


def _predict(config: ServingConfig) -> dict[str, Any]:
    files = {"type": "array", "items": _BINARY, "minItems": 1, "maxItems": config.max_images}
    listed = {"type": "array", "items": _BASE64, "minItems": 1, "maxItems": config.max_images}
    image, one, many = {"schema": _BINARY}, {"image_base64": _BASE64}, {"images_base64": listed}
    return {
        "summary": "Classify one image or many",
        "parameters": [
            _query(
                "top_k",
                {"type": "integer", "minimum": 0, "maximum": 999_999_999},
                "also return so many of the likeliest classes",
            ),
            _query(
                "explain",
                {"type": "boolean"},
                f"also return a Grad-CAM overlay for each image, {MOST_AT_ONCE} at most",
            ),
            _query(
                "embedding",
                {"type": "boolean"},
                "also return the input of the network's last layer for each image",
            ),
        ],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": image,
                "application/octet-stream": image,
                "multipart/form-data": {"schema": _object({"file": files})},
                "application/json": {"schema": {"oneOf": [_object(one), _object(many)]}},
            },
        },
        "responses": {
            "200": _content("one prediction, or a list of them in the order of the images", "Answer")
            | {
                "headers": {
                    PREDICTION_ID: {"schema": {"type": "string"}, "description": "for POST /feedback"}
                }
            },
            **{str(status): _problem(status) for status in _PROBLEMS},
        },
    }


def _schemas(classes: list[str]) -> dict[str, Any]:
    named = {
        "class_index": {"type": "integer", "minimum": 0, "maximum": len(classes) - 1},
        "class_name": {"enum": classes},
        "confidence": {"type": "number", "minimum": 0, "maximum": 1},
    }
    ranked = {"type": "array", "items": _object(named)}
    prediction = _object({**named, "model_version": {"type": "string"}})
    embedding = {"type": "array", "items": {"type": "number"}}
    prediction["properties"] |= {
        "rejected": {
            "type": "boolean",
            "description": "the confidence is below the threshold; only where `raycls reject` has set one",
        },
        "top_k": ranked,
        "embedding": embedding,
        "explanation_png_base64": _BASE64,
        "seen_png_base64": _BASE64,
    }
    listed = {"type": "array", "items": {"$ref": "#/components/schemas/Prediction"}}
    return {
        "Prediction": prediction,
        "Answer": {"oneOf": [{"$ref": "#/components/schemas/Prediction"}, _object({"predictions": listed})]},
        "Problem": _object(
            {
                "type": {"type": "string"},
                "title": {"type": "string"},
                "status": {"type": "integer"},
                "detail": {"type": "string"},
                "request_id": {"type": "string"},
                "error": {"type": "string"},
            },
            optional=("request_id", "error"),
        ),
    }


def _object(properties: dict[str, Any], optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the schema of an object with exactly these properties, all required but the optional ones."""
    required = [name for name in properties if name not in optional]
    return {
        "type": "object",
        "properties": dict(properties),
        "required": required,
        "additionalProperties": False,
    }


def _query(name: str, schema: dict[str, Any], description: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def _get(description: str, kind: str, schema: dict[str, Any], *problems: int) -> dict[str, Any]:
    found = {"200": {"description": description, "content": {kind: {"schema": schema}}}}
    return {"responses": found | {str(status): _problem(status) for status in problems}}


def _content(description: str, schema: str, kind: str = "application/json") -> dict[str, Any]:
    return {
        "description": description,
        "content": {kind: {"schema": {"$ref": f"#/components/schemas/{schema}"}}},
    }


def _problem(status: int) -> dict[str, Any]:
    return _content(
        f"{HTTPStatus(status).phrase}: {_PROBLEMS[status]}", "Problem", "application/problem+json"
    )
