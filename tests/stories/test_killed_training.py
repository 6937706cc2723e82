"""A training run that is killed: it goes on by itself, or is resumed, and ends where the undisturbed run does."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil
import pytest
import torch
from safetensors.torch import load_file

from raycls import registry, tracking
from raycls.config import Config, override
from raycls.data.versions import open_dataset
from raycls.errors import BrokenOffError, UsageError
from raycls.models import checkpoint
from raycls.models.card import WEIGHTS
from raycls.training import loop
from raycls.training.checkpoints import epoch_directory
from raycls.training.filing import TrainingResult
from raycls.training.presets import preset
from raycls.training.trainer import resume, train
from tests.epochs import AtEpoch, saved_epochs
from tests.interrupted import assert_interrupted, unfinished_runs

# Dropout and translation draw random numbers; small batches make epochs long enough to be hit.
SETTINGS = ["epochs=16", "batch_size=16", "dropout=0.1", "translate=1", "precision=fp32"]
KILLED_EPOCHS = 24  # of the run that is killed at random moments


@pytest.fixture
def config(digits_home: Path) -> Config:
    return override(preset("smoke", open_dataset("digits").info), SETTINGS)


@pytest.fixture(scope="module")
def undisturbed(
    digits_home: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """Every epoch's metrics and the best epoch's weights, by the plain loop with the threads of one worker."""
    dataset = open_dataset("digits")
    history: list[dict[str, float]] = []
    best = tmp_path_factory.mktemp("undisturbed")

    def keep(metrics: dict[str, float], snapshot: loop.Snapshot) -> None:
        history.append(metrics)
        if metrics["val_accuracy"] >= max(m["val_accuracy"] for m in history):
            snapshot.save(best)

    threads = torch.get_num_threads()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # as the worker has, by tests/conftest.py
    loop.fit(override(preset("smoke", dataset.info), SETTINGS), dataset, on_epoch=keep)
    torch.set_num_threads(threads)
    return history, load_file(best / WEIGHTS)


def _runs() -> set[str]:
    found = tracking.client().search_runs([tracking.experiment("digits")], max_results=1000)
    return {run.info.run_id for run in found}


def _assert_undisturbed(
    result: TrainingResult, undisturbed: tuple[list[dict[str, float]], dict[str, torch.Tensor]]
) -> None:
    history, best = undisturbed
    for metric in ("val_accuracy", "val_loss", "train_loss"):
        points = tracking.client().get_metric_history(result.run_id, metric)
        assert [point.step for point in points] == list(range(1, len(history) + 1)), metric
        assert [point.value for point in points] == [metrics[metric] for metrics in history], metric
    assert result.version is not None
    weights = load_file(registry.checkpoint(result.version) / WEIGHTS)
    assert all(torch.equal(weights[name], expected) for name, expected in best.items())
    assert tracking.client().get_run(result.run_id).info.status == "FINISHED"


def _kill_a_worker() -> None:
    """SIGKILL for the last of the Ray Train workers of this session's Ray."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "RayTrainWorker" in " ".join(process.cmdline()):
                found.append(process)
    if found:
        found[-1].kill()


def _start(*arguments: str, output: IO[str] | None = None) -> subprocess.Popen[str]:
    """`raycls train digits` as a process of its own, on this session's Ray."""
    import ray

    return subprocess.Popen(
        [sys.executable, "-m", "raycls", "train", "digits", *arguments],
        env=os.environ | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        stdout=subprocess.DEVNULL,
        stderr=output or subprocess.PIPE,
        text=True,
    )


def _read_until(process: subprocess.Popen[str], what: str) -> str:
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if re.search(what, line):
            return seen
    raise AssertionError(f"{what!r} was never printed:\n{seen}")


def test_ctrl_c_then_a_killed_driver_then_a_killed_worker(
    trained: TrainingResult,
    undisturbed: tuple[list[dict[str, float]], dict[str, torch.Tensor]],
    storage: Path,
    at_epoch: AtEpoch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each at a moment that differs from run to run; with one worker, not a bit of the result differs."""
    before, models, unfinished = _runs(), registry.list_models(), unfinished_runs()
    options = [option for setting in SETTINGS for option in ("--set", setting)]
    interrupted = _start("--preset", "smoke", "--workers", "1", "--model", "digits-killed", *options)
    seen = _read_until(interrupted, r"epoch 3/16")
    time.sleep(random.uniform(0, 0.3))
    interrupted.send_signal(signal.SIGINT)
    seen += interrupted.communicate(timeout=60)[1]
    match = re.search(r"go on with: raycls train digits --resume (\S+)\n", seen)
    assert match, seen
    name = match[1]
    assert_interrupted(interrupted.returncode, seen, "training")
    assert (registry.list_models(), unfinished_runs()) == (models, unfinished)

    killed = _start("--resume", name)
    _read_until(killed, "going on after epoch")
    _read_until(killed, "epoch ")
    with pytest.raises(UsageError, match=rf"still running \(process {killed.pid} "):
        resume("digits", name)
    time.sleep(random.uniform(0, 0.3))
    killed.kill()
    killed.communicate()

    at_epoch(max(saved_epochs()) + 3, _kill_a_worker)
    result = resume("digits", name)
    assert capsys.readouterr().err.count("going on after epoch") == 2, "no worker was killed"
    assert len(list(storage.glob(f"{name}/attempt-*"))) == 3
    assert _runs() - before == {result.run_id}
    _assert_undisturbed(result, undisturbed)
    with pytest.raises(UsageError, match="is finished: there is nothing to resume"):
        resume("digits", name)


def test_a_checkpoint_that_cannot_be_written_ends_the_run_at_the_one_before(
    trained: TrainingResult,
    config: Config,
    undisturbed: tuple[list[dict[str, float]], dict[str, torch.Tensor]],
    storage: Path,
    at_epoch: AtEpoch,
) -> None:
    def obstruct() -> None:
        (attempt,) = storage.glob("*/attempt-1")
        (attempt / epoch_directory(9)).touch()  # where the checkpoint's directory should be

    at_epoch(1, obstruct)
    with pytest.raises(BrokenOffError, match="the checkpoint epoch-00009 cannot be written under ") as error:
        train("digits", config, workers=1, model="digits-obstructed")
    message = str(error.value)
    assert "\n" not in message
    (run,) = storage.glob("digits-*")
    kept = re.search(r"the checkpoint of epoch (\d+) is kept in (\S+);", message)
    assert kept, message
    assert checkpoint.load(Path(kept[2]))[1].metrics["epoch"] == int(kept[1]) == 8
    assert message.endswith(f"go on with: raycls train digits --resume {run.name}")
    assert len(list(run.glob("attempt-*"))) == 1
    (run / "attempt-1" / epoch_directory(9)).unlink()
    _assert_undisturbed(resume("digits", run.name), undisturbed)


@pytest.mark.long
def test_kills_of_two_workers_at_random_moments_lose_no_epoch(
    trained: TrainingResult, config: Config, storage: Path, tmp_path: Path
) -> None:
    long = override(config, [f"epochs={KILLED_EPOCHS}"])
    expected = train("digits", long, workers=2, model="digits-undisturbed")
    before = _runs()
    rng = random.Random()
    victims = ["driver", "worker", "ctrl-c"]
    rng.shuffle(victims)
    settings = [*SETTINGS[1:], f"epochs={KILLED_EPOCHS}"]
    arguments = ["--preset", "smoke", "--workers", "2", "--model", "digits-random"]
    arguments += [option for setting in settings for option in ("--set", setting)]
    name, done, reached = "", "", 0
    while not done:
        log = tmp_path / f"{len(victims)}.log"
        with log.open("w") as output:
            process = _start(*arguments, output=output)
        target = reached + rng.randint(2, 5)
        while process.poll() is None:
            time.sleep(0.02)
            reached = max([reached, *map(int, re.findall(rf"epoch (\d+)/{KILLED_EPOCHS}", log.read_text()))])
            if not victims or reached < target:
                continue
            time.sleep(rng.uniform(0, 0.5))
            victim = victims.pop()
            if victim == "worker":
                _kill_a_worker()
                target += rng.randint(2, 5)
            else:
                process.send_signal(signal.SIGKILL if victim == "driver" else signal.SIGINT)
                process.wait(timeout=60)
        printed = log.read_text()
        name = name or re.search(r"--resume (\S+)", printed)[1]  # type: ignore[index]
        arguments = ["--resume", name]
        done = printed if process.returncode == 0 else ""
        assert done or process.returncode in (-signal.SIGKILL, 130), printed
    assert not victims, "the run was over before all had been killed"
    (run_id,) = _runs() - before
    points = tracking.client().get_metric_history(run_id, "val_accuracy")
    assert [point.step for point in points] == list(range(1, KILLED_EPOCHS + 1))
    test_accuracy = registry.resolve("digits-random/1").metrics["test_accuracy"]
    assert test_accuracy == pytest.approx(expected.metrics["test_accuracy"], abs=0.003)
