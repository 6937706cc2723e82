"""`mlflow models serve` with a PythonModel that takes base64 in JSON.

python mlflow_server.py CHECKPOINT PORT WORKERS
"""

from __future__ import annotations

import os
import sys
import tempfile
from base64 import b64decode
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import torch
from mlflow.pyfunc.model import PythonModel
from model import Model, threads


class Classifier(PythonModel):
    def load_context(self, context: Any) -> None:
        self.model = Model(Path(context.artifacts["checkpoint"]), threads=int(os.environ["THREADS"]))

    def predict(self, context: Any, model_input: list[str], params: Any = None) -> list[dict[str, Any]]:
        return self.model.answers(torch.stack([self.model.pixels(b64decode(text)) for text in model_input]))


if __name__ == "__main__":
    directory, port, workers = sys.argv[1:]
    os.environ["THREADS"] = str(threads(int(workers)))
    folder = tempfile.mkdtemp(prefix="raycls-mlflow-peer-")
    mlflow.pyfunc.save_model(
        f"{folder}/model",
        python_model=Classifier(),
        artifacts={"checkpoint": directory},
        code_paths=[str(Path(__file__).with_name("model.py"))],
        pip_requirements=[],
    )
    os.environ["UVICORN_ACCESS_LOG"] = "false"
    os.environ["PATH"] = (
        f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # MLflow runs `uvicorn` from PATH
    )
    command = ["models", "serve", "-m", f"{folder}/model", "--env-manager", "local", "--host", "127.0.0.1"]
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", *command, "--port", port, "--workers", workers])
