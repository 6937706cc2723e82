"""Jobs on a cluster that also serves: submitted with the token, or started from a shell and interrupted there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from raycls import cluster, registry, tracking
from raycls.serving.control.deploy import Served

ROOT = Path(__file__).parents[2]
PYTHON = sys.executable
SUBMIT = [PYTHON, "-m", "ray.scripts.scripts", "job", "submit"]


@pytest.mark.parametrize(
    ("script", "arguments"),
    [
        ("train", ["--preset", "smoke"]),
        pytest.param(
            "tune", ["--preset", "smoke", "--trials", "2", "--max-epochs", "1"], marks=pytest.mark.slow
        ),
    ],
)
def test_a_submitted_job_registers_a_model(served: Served, script: str, arguments: list[str]) -> None:
    known = {version.reference for version in registry.list_models()}
    name = f"digits-job-{script}"
    spec = [PYTHON, f"jobs/{script}.py", "digits", "--model", name, "--json", *arguments]
    done = subprocess.run(
        [*SUBMIT, "--address", served.dashboard, "--working-dir", ".", "--", *spec],
        cwd=ROOT,
        env=os.environ | {"RAY_AUTH_MODE": "token"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (document,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert document["model"] == f"{name}/1"
    assert document["model"] not in known
    version = registry.resolve(document["model"])
    assert version.metrics["test_accuracy"] == document["test_accuracy"]
    if script == "tune":
        assert document["promoted"]
        assert len(document["trials"]) == 2
        registry.promote("digits", registry.resolve("digits").version)  # the champion promoted last again


def _interrupt(served: Served, arguments: Sequence[str], when: str) -> tuple[int, str]:
    """Start a command on the cluster, send SIGINT once stderr shows `when`; the exit code and all of stderr."""
    process = subprocess.Popen(
        [PYTHON, "-m", "raycls", *arguments],
        env=os.environ | {"RAY_ADDRESS": served.address},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        seen.append(line)
        if when in line:
            process.send_signal(signal.SIGINT)
            break
    rest = process.communicate(timeout=60)[1]
    return process.returncode, "".join(seen) + rest


@pytest.mark.parametrize(
    ("arguments", "when", "kind"),
    [
        (["train", "digits", "--preset", "smoke", "--set", "epochs=5000"], "epoch 2/5000", "training"),
        (["tune", "digits", "--preset", "smoke", "--trials", "500"], "trial 1/500", "study"),
    ],
    ids=["train", "tune"],
)
def test_ctrl_c_is_one_line_and_leaves_nothing_half_written(
    served: Served, arguments: list[str], when: str, kind: str
) -> None:
    models = [version.reference for version in registry.list_models()]
    open_before = _open_runs()
    code, printed = _interrupt(served, arguments, when)
    assert code == 130, printed
    assert printed.splitlines()[-1] == "interrupted"
    assert "Traceback" not in printed
    assert [version.reference for version in registry.list_models()] == models

    experiment = tracking.client().get_experiment_by_name("digits")
    assert experiment is not None
    (last,) = tracking.client().search_runs(
        [experiment.experiment_id], f"tags.kind = '{kind}'", max_results=1, order_by=["start_time DESC"]
    )
    assert last.info.status == "KILLED"
    assert last.data.tags["ended"] == "interrupted"
    assert _open_runs() == open_before

    running = cluster.status()
    assert running is not None
    deadline = time.monotonic() + 30
    while workers := [p for p in running.head.members() if _trains(p)]:
        assert time.monotonic() < deadline, workers
        time.sleep(0.5)


def _open_runs() -> set[str]:
    """The ids of MLflow's runs of digits that nobody has ended."""
    return {run.info.run_id for run in tracking.find_runs("digits", "attributes.status = 'RUNNING'")}


def _trains(process: object) -> bool:
    try:
        command = " ".join(process.cmdline())  # type: ignore[attr-defined]
    except Exception:  # it ended between the two calls
        return False
    return "RayTrainWorker" in command or "ray::trial" in command
