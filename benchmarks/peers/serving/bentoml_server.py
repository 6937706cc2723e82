"""BentoML with adaptive batching, as in its documentation: a batchable API that takes images as a form.

python bentoml_server.py CHECKPOINT PORT WORKERS
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import bentoml
import PIL.Image
import torch
from model import Model, threads

WORKERS = int(os.environ.get("WORKERS", "1"))


@bentoml.service(workers=WORKERS, metrics={"enabled": False}, logging={"access": {"enabled": False}})
class Classifier:
    def __init__(self) -> None:
        self.model = Model(Path(os.environ["CHECKPOINT"]), threads=threads(WORKERS))

    @bentoml.api(batchable=True, max_batch_size=64)
    def predict(self, images: list[PIL.Image.Image]) -> list[dict[str, Any]]:
        inputs = [self.model.prepared(image.convert("RGB")) for image in images]
        return self.model.answers(torch.stack(inputs))


if __name__ == "__main__":
    directory, port, workers = sys.argv[1:]
    os.environ |= {"CHECKPOINT": directory, "WORKERS": workers, "BENTOML_DO_NOT_TRACK": "true"}
    command = ["serve", "bentoml_server:Classifier", "--host", "127.0.0.1", "--port", port]
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", *command])
