"""A study as a job on a cluster that also serves, submitted with the token. The pages submit a shorter one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from raycls import registry
from raycls.serving.control.deploy import Served
from raycls.training.filing import TrainingResult

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable
SUBMIT = [PYTHON, "-m", "ray.scripts.scripts", "job", "submit"]


@pytest.mark.long
def test_a_submitted_study_registers_a_model(served: Served, champion: TrainingResult) -> None:
    known = {version.reference for version in registry.list_models()}
    options = ["--model", "digits-job", "--json", "--preset", "smoke", "--trials", "2", "--max-epochs", "1"]
    command = [PYTHON, "jobs/tune.py", "digits", *options]
    done = subprocess.run(
        [*SUBMIT, "--address", served.dashboard, "--working-dir", ".", "--", *command],
        cwd=ROOT,
        env=os.environ | {"RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (document,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert document["model"] == "digits-job/1"
    assert document["model"] not in known
    version = registry.resolve(document["model"])
    assert version.metrics["test_accuracy"] == document["test_accuracy"]
    assert document["promoted"]
    assert len(document["trials"]) == 2
