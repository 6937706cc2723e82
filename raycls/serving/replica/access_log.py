"""A line of the access log, which `access_log` in serve_config.yaml turns on for a share of the requests."""

from __future__ import annotations

import json

from starlette.requests import Request
from starlette.responses import Response

from raycls.serving.replica.answer import REQUEST_ID


def access_line(request: Request, response: Response, seconds: float, model: str) -> str:
    """Return one request as a line of JSON. seconds: that it took. model: NAME/VERSION of the replica's."""
    return json.dumps(
        {
            "method": request.method,
            "path": request.scope["path"],
            "status": response.status_code,
            "ms": round(1000 * seconds, 2),
            "bytes_in": request.headers.get("content-length"),
            "bytes_out": len(response.body),
            "content_type": request.headers.get("content-type"),
            "request_id": request.headers.get(REQUEST_ID),
            # HAProxy's word is the last one; those before it are the client's, or a load balancer's.
            "client": ", ".join(request.headers.getlist("x-forwarded-for")),
            "model": model,
        }
    )
