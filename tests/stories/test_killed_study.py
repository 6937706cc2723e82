"""A study whose driver is killed, whose trial is killed, and that is interrupted: `--resume` loses nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from raycls import registry
from raycls.errors import StudyError
from raycls.training.filing import TrainingResult
from raycls.tuning import record
from raycls.tuning.study import Outcome, resume
from tests.interrupted import assert_interrupted, unfinished_runs
from tests.studies import assert_whole


@pytest.fixture
def start() -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """`raycls tune digits` as a process of its own, on this session's Ray; none outlives the test."""
    import ray

    started: list[subprocess.Popen[bytes]] = []

    def run(*arguments: str, log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "raycls", "tune", "digits", *arguments],
                env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.wait()


def _await_epochs(study: str, count: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until the study's trials have had so many epochs in all."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert process.poll() is None, log.read_text()
        with suppress(StudyError):
            if sum(trial.epochs for trial in record.read(study)) >= count:
                return
        time.sleep(0.1)
    raise AssertionError(log.read_text())


def _kill_a_trial() -> None:
    """Between two trials there is none for a moment."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.NoSuchProcess):
                if " ".join(process.cmdline()).startswith("ray::trial"):
                    process.kill()
                    return
        time.sleep(0.05)
    raise AssertionError("no trial runs")


@pytest.mark.timeout(400)
def test_a_killed_driver_a_killed_trial_and_ctrl_c_lose_nothing(
    champion: TrainingResult, start: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    options = ["--preset", "smoke", "--set", "epochs=6", "--set", "precision=fp32", "--trials", "6"]
    options += ["--scheduler", "none", "--model", "digits-killed-study", "--study", "killed"]
    log = tmp_path / "log"
    unfinished = unfinished_runs()
    driver = start(*options, log=log)
    _await_epochs("killed", 5, driver, log)
    driver.kill()
    driver.wait()
    asked = {trial.number: trial.values for trial in record.read("killed")}

    driver = start("--resume", "killed", log=log)
    _await_epochs("killed", 14, driver, log)
    _kill_a_trial()
    _await_epochs("killed", 22, driver, log)
    driver.send_signal(signal.SIGINT)
    driver.wait(timeout=60)
    assert_interrupted(driver.returncode, log.read_text(), "study")
    assert unfinished_runs() == unfinished
    assert not [v for v in registry.list_models() if v.name == "digits-killed-study"]
    assert "go on with: raycls tune digits --resume killed" in log.read_text()

    outcome: Outcome = resume("digits", "killed")
    study = outcome.study
    assert_whole(study.trials, study.run_id, 6)
    assert all(trial.epochs == 6 for trial in study.trials)
    assert {number: study.trials[number].values for number in asked} == asked
    assert outcome.training.version is not None
    assert len([v for v in registry.list_models() if v.name == "digits-killed-study"]) == 1
