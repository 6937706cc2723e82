"""LitServe with batching, as in its guide "Speed up serving by 200x": base64 in JSON, batches, several workers.

python litserve_server.py CHECKPOINT PORT WORKERS
"""

from __future__ import annotations

import sys
from base64 import b64decode
from pathlib import Path
from typing import Any

import litserve
import torch
from model import Model, threads
from torch import Tensor


class Classifier(litserve.LitAPI):
    def __init__(self, directory: Path, workers: int):
        super().__init__(max_batch_size=64, batch_timeout=0.001, api_path="/predict")
        self.directory, self.workers = directory, workers

    def setup(self, device: str) -> None:
        self.model = Model(self.directory, threads(self.workers))

    def decode_request(self, request: dict[str, str]) -> Tensor:
        return self.model.pixels(b64decode(request["image_data"]))

    def batch(self, inputs: list[Tensor]) -> Tensor:
        return torch.stack(inputs)

    def predict(self, inputs: Tensor) -> list[dict[str, Any]]:
        return self.model.answers(inputs)

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        return output


if __name__ == "__main__":
    directory, port, workers = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    api = Classifier(directory, workers)
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=workers, fast_queue=True)
    server.run(host="127.0.0.1", port=port, generate_client_file=False, log_level="warning", access_log=False)
