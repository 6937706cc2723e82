"""Ray Serve with its defaults, as in its "Getting Started": a deployment that answers one request after another.

python ray_serve_server.py CHECKPOINT PORT REPLICAS
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

import ray
from model import Model
from ray import serve
from starlette.requests import Request


@serve.deployment
class Classifier:
    def __init__(self, directory: str):
        self.model = Model(Path(directory))

    async def __call__(self, request: Request) -> dict[str, Any]:
        return self.model.answers(self.model.pixels(await request.body())[None])[0]


if __name__ == "__main__":
    directory, port, replicas = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    ray.init(address="local", include_dashboard=False, logging_level=logging.WARNING)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    application = Classifier.options(num_replicas=replicas).bind(directory)  # type: ignore[attr-defined]
    serve.run(application, route_prefix="/predict", blocking=True)
