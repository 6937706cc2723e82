"""The OpenAPI 3.1 document of the control plane: GET /control/openapi.json, made from the table of routes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Any

from raycls.control_plane.route import ControlRoute

_FILES = ("file", "archive")  # the fields of a form that hold files
_PROBLEMS = {
    400: "the request says something wrong; the detail says what is right",
    401: "the token is missing or unknown",
    403: "the token has another role, no token has the role, or a page of another site sent the request",
    404: "there is no such thing",
    408: "the body came too slowly",
    409: "refused; the detail says why",
    413: "too many bytes",
    421: "the server is not called so",
    429: "too many at this moment",
    500: "the server failed; its log says why",
    503: "the registry, the storage or the cluster does not answer",
}


def document(routes: Iterable[ControlRoute]) -> dict[str, Any]:
    """Return the whole document."""
    paths: dict[str, dict[str, Any]] = {}
    schemas: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "raycls: control plane",
            "description": "What manages the server. Each route needs a token with the role that it names.",
            "version": "1",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _operation(route: ControlRoute, schemas: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "summary": route.summary,
        "description": f"Needs the role `{route.role}`." if route.role else "Needs any token.",
        "security": [{"token": []}],
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in re.findall(r"{(\w+)}", route.path)
        ]
        + [
            {"name": name, "in": where, "description": text, "schema": {"type": "string"}}
            for where, given in (("query", route.queries), ("header", route.headers))
            for name, text in given.items()
        ],
        "responses": {
            "200": {"description": "done", "content": {"application/json": {"schema": {"type": "object"}}}},
            **{
                str(status): {
                    "description": f"{HTTPStatus(status).phrase}: {text}",
                    "content": {"application/problem+json": {"schema": {"type": "object"}}},
                }
                for status, text in _PROBLEMS.items()
            },
        },
    }
    if route.body:
        schemas[route.body.__name__] = route.body.model_json_schema(
            ref_template="#/components/schemas/{model}"
        )
        schema = {"$ref": f"#/components/schemas/{route.body.__name__}"}
        operation["requestBody"] = {"content": {"application/json": {"schema": schema}}}
    if route.form:
        operation["requestBody"] = {"content": _forms(route.form)}
    return operation


def _forms(fields: Mapping[str, str]) -> dict[str, Any]:
    """Return the forms of a body that has files: multipart, or a zip alone."""
    binary = {"type": "string", "format": "binary"}
    properties: dict[str, dict[str, Any]] = {
        name: {"description": text, **(binary if name in _FILES else {"type": "string"})}
        for name, text in fields.items()
    }
    properties["file"] = {"description": fields["file"], "type": "array", "items": binary}
    return {
        "multipart/form-data": {"schema": {"type": "object", "properties": properties}},
        "application/zip": {"schema": binary},
    }
