"""MLflow's own tools read a registered version: in Python, and as a server."""

from __future__ import annotations

import base64
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import requests

from raycls import home as homes
from raycls.cluster.environment import free_port
from raycls.data.versions import open_dataset
from raycls.engines.predictor import Predictor
from raycls.errors import UsageError
from raycls.registry import checkpoint
from raycls.training.filing import TrainingResult
from tests.predict import encoded


@pytest.fixture
def uri(trained: TrainingResult) -> str:
    assert trained.version is not None
    return f"models:/{trained.version.name}/{trained.version.version}"


def test_pyfunc_answers_as_the_predictor(uri: str, trained: TrainingResult) -> None:
    import mlflow
    import pandas as pd

    assert trained.version is not None
    mlflow.set_tracking_uri(homes.tracking_uri())
    loaded = mlflow.pyfunc.load_model(uri)
    pixels = open_dataset("digits").images("test")[:3]
    picture = encoded(1)
    rows = [picture, base64.b64encode(picture).decode(), *(each.tolist() for each in pixels)]
    found = loaded.predict(pd.DataFrame({"image": rows}))
    predictor = Predictor.load(checkpoint(trained.version))
    (of_bytes,) = predictor.predict([picture])
    assert found[0] == found[1]
    assert found[0]["class_name"] == of_bytes.class_name
    assert found[0]["confidence"] == pytest.approx(of_bytes.confidence, abs=1e-6)
    expected = predictor.predictions(*predictor.outputs(np.stack(pixels)))
    assert [each["class_index"] for each in found[2:]] == [each.class_index for each in expected]
    with pytest.raises(UsageError, match="H×W×3"):
        loaded.predict(pd.DataFrame({"image": [[1, 2, 3]]}))


@pytest.mark.timeout(180)
def test_mlflow_serves_it(uri: str, tmp_path: Path) -> None:
    port = free_port(5100)
    command = ["-m", "mlflow", "models", "serve", "-m", uri, "--env-manager", "local", "-h", "127.0.0.1"]
    process = subprocess.Popen(
        [sys.executable, *command, "-p", str(port)],
        env=os.environ
        | {
            "MLFLOW_TRACKING_URI": homes.tracking_uri(),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",  # MLflow calls uvicorn by its name
        },
        stdout=(tmp_path / "log").open("wb"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                if requests.get(f"http://127.0.0.1:{port}/ping", timeout=5).ok:
                    break
            except requests.RequestException:
                pass
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.5)
        text = base64.b64encode(encoded(1)).decode()
        document = {"dataframe_split": {"columns": ["image"], "data": [[text]]}}
        answer = requests.post(f"http://127.0.0.1:{port}/invocations", json=document, timeout=60)
        assert answer.status_code == 200, answer.text
        (found,) = answer.json()["predictions"]
        assert set(found) == {"class_index", "class_name", "confidence"}
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def test_no_file_of_a_version_is_pickled(trained: TrainingResult) -> None:
    assert trained.version is not None
    names = {path.name for path in checkpoint(trained.version).iterdir()}
    assert "MLmodel" in names
    assert not [name for name in names if name.endswith((".pkl", ".pt", ".pth", ".bin"))]
