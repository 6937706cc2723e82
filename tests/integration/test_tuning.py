"""Studies on real Ray, kept in a real Optuna storage and a real MLflow: what they find, and that nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from raycls import home, registry, tracking
from raycls.config import Config, override, preset
from raycls.data.packed import open_dataset
from raycls.errors import ConfigError, StudyError, UsageError
from raycls.models.card import load_card
from raycls.reports.study_report import write_report
from raycls.training.trainer import TrainingResult
from raycls.tuning import record
from raycls.tuning.lineage import trace
from raycls.tuning.space import Domain
from raycls.tuning.spec import Trial
from raycls.tuning.study import Outcome, plan, resume, search, tune


@pytest.fixture
def base(digits_home: Path) -> Config:
    return override(preset("smoke", open_dataset("digits").manifest), ["epochs=6", "train_fraction=0.5"])


@pytest.fixture
def champion(trained: TrainingResult) -> TrainingResult:
    """The session's model is champion again when the test is over."""
    yield trained  # type: ignore[misc]
    assert trained.version is not None
    registry.promote(trained.version.name, trained.version.version)


def _curves(run_id: str) -> dict[int, list[int]]:
    """The steps in the curve of every trial of the study whose MLflow run this is; each has one run."""
    children = tracking.find_runs("digits", f"tags.`mlflow.parentRunId` = '{run_id}'")
    numbers = [int(child.data.tags["trial"]) for child in children]
    assert len(set(numbers)) == len(numbers), "a trial has two runs"
    assert not any(child.info.status == "RUNNING" for child in children)
    return {
        number: [
            point.step for point in tracking.client().get_metric_history(child.info.run_id, "val_accuracy")
        ]
        for number, child in zip(numbers, children, strict=True)
    }


def _assert_whole(trials: tuple[Trial, ...], run_id: str, count: int) -> None:
    """Every trial once in both books, with every epoch once."""
    assert [trial.number for trial in trials] == list(range(count))
    assert {trial.state for trial in trials} <= {"done", "stopped early"}
    assert _curves(run_id) == {trial.number: list(range(1, trial.epochs + 1)) for trial in trials}


def test_a_study_leaves_one_run_per_trial_and_a_better_champion(
    champion: TrainingResult, base: Config
) -> None:
    outcome = tune(plan("digits", base, trials=6, max_epochs=3, scheduler="asha", seed=1))
    study = outcome.study
    _assert_whole(study.trials, study.run_id, 6)
    assert len({str(trial.values) for trial in study.trials}) == 6
    assert study.best.val_accuracy == max(trial.val_accuracy or 0 for trial in study.trials)
    # The preset itself is the first trial, so that a study never ends below it.
    assert study.trials[0].values["optim.lr"] == base.optim.lr
    assert any(trial.epochs < 3 for trial in study.trials), "nothing was stopped early"
    assert all(trial.state == "stopped early" for trial in study.trials if trial.epochs < 3)
    won = study.config.flat() | {"optim.lr": study.best.values["optim.lr"]}
    assert won | study.best.values == won
    assert study.config.optim.lr == pytest.approx(study.best.config(base).optim.lr * study.lr_factor)
    assert study.config.training.epochs == 6
    assert study.config.training.train_fraction == 1
    logged = tracking.client().get_run(study.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.data.params["trials"] == "6"
    assert record.read(study.name) == study.trials
    assert not (Path(home.storage()) / "studies" / study.name).exists(), "checkpoints of trials are left"

    version, former = outcome.training.version, champion.version
    assert version is not None and former is not None
    assert version.tags["study"] == study.name
    assert version.tags["trial"] == str(study.best.number)
    assert outcome.promoted == (version.metrics["val_accuracy"] > former.metrics["val_accuracy"])
    assert registry.resolve("digits").version == (version if outcome.promoted else former).version
    with pytest.raises(UsageError, match="is finished"):
        resume("digits", study.name)
    with pytest.raises(UsageError, match=f"go on with it by --resume {study.name}"):
        tune(plan("digits", base, trials=1), study.name)


def test_search_and_scheduler_suit_the_trials(ray_session: None, base: Config) -> None:
    def chosen(**options: Any) -> tuple[str, str]:
        spec = plan("digits", base, **options)
        return spec.search, spec.scheduler

    assert chosen(max_epochs=3) == ("gp", "none")
    assert chosen(scheduler="asha") == ("tpe", "asha")
    assert chosen(scheduler="asha", search="gp") == ("gp", "asha")
    assert chosen(trials=300) == ("tpe", "none")
    assert chosen(objective="accuracy,latency") == ("tpe", "none")


def test_what_cannot_be_searched_is_refused_before_anything_starts(ray_session: None, base: Config) -> None:
    with pytest.raises(UsageError, match="at least one trial"):
        plan("digits", base, trials=0)
    with pytest.raises(ConfigError, match="search='annealing'"):
        plan("digits", base, search="annealing")
    with pytest.raises(ConfigError, match=r"batch_size=60000 is more than the \d+ training images"):
        plan("digits", base, space={"training.batch_size": Domain(low=16, high=60000)})
    with pytest.raises(UsageError, match="a trial needs 3 CPUs, the cluster's nodes have 2 CPUs"):
        plan("digits", base, cpus_per_trial=3)


def test_trials_that_fail_are_told_and_the_study_goes_on(
    champion: TrainingResult, base: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = override(base, ["optim.name=adamw", "weight_decay=1", "precision=fp32", "epochs=60"])
    space = {"optim.lr": Domain(choices=(0.001, 10.0))}
    study = search(plan("digits", wild, space=space, search="grid", scheduler="none"), "wild")
    assert [trial.state for trial in study.trials] == ["done", "failed"]
    assert "lower the learning rate (optim.lr=10)" in study.trials[1].reason
    (failed,) = tracking.find_runs("digits", f"tags.study = '{study.name}' and attributes.status = 'FAILED'")
    assert "lower the learning rate" in failed.data.tags["ended"]
    assert "lower the learning rate" in capsys.readouterr().err
    space = {"optim.lr": Domain(choices=(10.0, 9.0, 8.0))}
    with pytest.raises(
        StudyError, match=r"1 trials failed, --max-failures 0 was allowed; the last: the loss"
    ):
        search(plan("digits", wild, space=space, search="grid", scheduler="none", max_failures=0), "wilder")


def test_accuracy_and_latency_and_a_study_killed_after_its_last_trial(
    champion: TrainingResult, base: Config, tmp_path: Path
) -> None:
    spec = plan(
        "digits", base, trials=6, max_epochs=2, objective="accuracy,latency", model="digits-fast", seed=2
    )
    assert spec.scheduler == "none"
    study = search(spec, "widths")
    _assert_whole(study.trials, study.run_id, 6)
    latency = {str(trial.values["network.widths"]): trial.latency_ms for trial in study.trials}
    assert len(set(latency.values())) == len(latency), "one latency per architecture"
    assert all(
        not (other.val_accuracy > point.val_accuracy and other.latency_ms < point.latency_ms)  # type: ignore[operator]
        for point in study.front
        for other in study.trials
    )
    assert study.best in study.front

    tracking.client().set_terminated(study.run_id, "KILLED")  # before the winner's training
    outcome = resume("digits", "widths")
    version = outcome.training.version
    assert version is not None
    assert version.name == "digits-fast"
    assert outcome.study.trials == study.trials
    card = load_card(registry.checkpoint(version))
    assert json.dumps(card.config["network"]["widths"]) == study.best.values["network.widths"]
    assert {(link.name, link.state) for link in trace(version)} == {
        (name, "verified") for name in ("dataset", "study", "trial", "run", "checkpoint")
    }
    page = write_report("widths", tmp_path / "page.html").read_text()
    assert "Accuracy against latency" in page
    assert f"Trial #{study.best.number} was chosen" in page


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
    assert driver.wait(timeout=60) == 130, log.read_text()
    assert "go on with: raycls tune digits --resume killed" in log.read_text()

    outcome: Outcome = resume("digits", "killed")
    study = outcome.study
    _assert_whole(study.trials, study.run_id, 6)
    assert all(trial.epochs == 6 for trial in study.trials)
    assert {number: study.trials[number].values for number in asked} == asked
    assert outcome.training.version is not None
    assert len([v for v in registry.list_models() if v.name == "digits-killed-study"]) == 1


@pytest.mark.slow
def test_a_trial_of_two_workers_has_the_same_record(champion: TrainingResult, base: Config) -> None:
    study = tune(
        plan(
            "digits",
            base,
            trials=2,
            max_epochs=2,
            workers_per_trial=2,
            scheduler="none",
            model="digits-by-two",
        )
    ).study
    _assert_whole(study.trials, study.run_id, 2)


@pytest.mark.slow
@pytest.mark.parametrize(("search", "scheduler"), [("random", "hyperband"), ("grid", "asha")])
def test_other_searches_and_schedulers_end_too(
    champion: TrainingResult, base: Config, search: str, scheduler: str
) -> None:
    study = tune(
        plan(
            "digits", base, trials=7, max_epochs=3, search=search, scheduler=scheduler, model="digits-others"
        )
    ).study
    _assert_whole(study.trials, study.run_id, 7)


JOINING = """
import atexit, subprocess, sys, threading, time
from ray.cluster_utils import Cluster
simulated = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
import os
os.environ["RAY_ADDRESS"] = simulated.address
from raycls.config import override, preset
from raycls.data.packed import open_dataset
from raycls.errors import StudyError
from raycls.tuning import record
from raycls.tuning.study import plan, search

def join():
    while True:
        try:
            if sum(trial.state == "done" for trial in record.read("joined")) >= 1:
                break
        except StudyError:
            pass
        time.sleep(0.1)
    # `simulated.add_node` sets signal handlers, which only the main thread may.
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
    node = subprocess.Popen([*command, f"--address={simulated.address}"], stdout=subprocess.DEVNULL)
    atexit.register(node.wait)
    atexit.register(node.terminate)

threading.Thread(target=join, daemon=True).start()
config = override(preset("smoke", open_dataset("digits").manifest), ["epochs=20", "batch_size=16", "precision=fp32"])
trials = search(plan("digits", config, trials=8, scheduler="none"), "joined").trials
spans = sorted((trial.asked_at, trial.ended_at) for trial in trials)
overlaps = sum(later[0] < earlier[1] - 0.5 for earlier, later in zip(spans, spans[1:]))
print("overlaps", overlaps, spans)
sys.exit(0 if overlaps and spans[1][0] >= spans[0][1] - 0.5 else 1)
"""


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_node_that_joins_takes_trials(digits_home: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", JOINING],
        # Without a token, as a plain `ray start` makes a cluster.
        env={name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
