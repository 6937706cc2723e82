"""Checks a training command after Ctrl-C: it prints one line, marks its MLflow run, and leaves no process."""

from __future__ import annotations

import time

import psutil

from raycls import tracking


def unfinished_runs() -> set[str]:
    """Return the ids of the MLflow runs of `digits` that are still RUNNING."""
    return {run.info.run_id for run in tracking.find_runs("digits", "attributes.status = 'RUNNING'")}


def assert_interrupted(code: int, printed: str, kind: str) -> None:
    """Check that a command ended after Ctrl-C as it should.

    code, printed: its exit code and its output. kind: "training" or "study". The command must have begun the latest
    MLflow run of this kind.
    """
    assert code == 130, printed
    assert printed.splitlines()[-1] == "interrupted"
    assert "Traceback" not in printed
    experiment = tracking.client().get_experiment_by_name("digits")
    assert experiment is not None
    (last,) = tracking.client().search_runs(
        [experiment.experiment_id], f"tags.kind = '{kind}'", max_results=1, order_by=["start_time DESC"]
    )
    assert last.info.status == "KILLED"
    assert last.data.tags["ended"] == "interrupted"
    deadline = time.monotonic() + 30
    while workers := [process for process in psutil.Process().children(recursive=True) if _trains(process)]:
        assert time.monotonic() < deadline, workers
        time.sleep(0.1)


def _trains(process: psutil.Process) -> bool:
    try:
        command = " ".join(process.cmdline())
    except psutil.NoSuchProcess:  # the process ended between the two calls
        return False
    return "RayTrainWorker" in command or "ray::trial" in command
