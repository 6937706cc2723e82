"""What stock Ray Tune and OptunaSearch cannot promise: docs/architecture.md says what raycls does in their place.

Each test runs Tune as its documentation says and asserts the limit. A test that fails here means that Tune has lost
the limit, and that code of ours under raycls/tuning can go.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import optuna
import pytest
from optuna.trial import TrialState
from ray import tune
from ray.air.integrations.mlflow import MLflowLoggerCallback
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search.optuna import OptunaSearch

STEPS = 3  # of a trial
TRIALS = 4
# Tune's own snapshot of the experiment, as often as it can be had: in every turn of Tune's loop.
EVERY_TURN = {"TUNE_GLOBAL_CHECKPOINT_S": "0"}

pytestmark = [pytest.mark.long, pytest.mark.timeout(300), pytest.mark.usefixtures("ray_session")]


class Steps(tune.Trainable):
    """Scores x at every step but the last, where it scores a tenth of x. Dies once in each step that has a file."""

    def setup(self, config: dict[str, Any]) -> None:
        self._x, self._folder, self._done = config["x"], Path(config["folder"]), 0

    def step(self) -> dict[str, Any]:
        self._done += 1
        fatal = self._folder / f"die-in-step-{self._done}"
        if fatal.exists():
            fatal.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        last = self._done == STEPS
        return {"score": self._x * (0.1 if last else 1.0), "step": self._done, "done": last}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        Path(checkpoint_dir, "step").write_text(str(self._done))

    def load_checkpoint(self, checkpoint_dir: str) -> None:  # type: ignore[override]
        self._done = int(Path(checkpoint_dir, "step").read_text())


class DiesAsking(optuna.samplers.RandomSampler):
    """Kills the driver while the second trial gets its values, once."""

    def __init__(self, folder: Path):
        super().__init__(seed=0)
        self._once = folder / "die-asking"

    def sample_independent(self, study: Any, trial: Any, *arguments: Any) -> Any:
        if trial.number == 1 and self._once.exists():
            self._once.unlink()
            os.kill(os.getpid(), signal.SIGKILL)
        return super().sample_independent(study, trial, *arguments)


class DiesTold(tune.Callback):
    """Kills the driver once, when the second trial has ended and every other callback was told."""

    def __init__(self, folder: Path):
        self._once, self._ended = folder / "die-told", 0

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended += 1
        if self._ended == 2 and self._once.exists():
            self._once.unlink()
            os.kill(os.getpid(), signal.SIGKILL)


def storage(folder: Path) -> optuna.storages.RDBStorage:
    return optuna.storages.RDBStorage(f"sqlite:///{folder}/optuna.db")


def tuner(folder: Path, scheduler: TrialScheduler | None = None, **run: Any) -> tune.Tuner:
    """A study as Tune's documentation has it: OptunaSearch on a database, one trial at a time, the best x first."""
    search = OptunaSearch(
        {"x": optuna.distributions.FloatDistribution(1.0, 2.0)},
        metric="score",
        mode="max",
        points_to_evaluate=[{"x": 2.0}],
        sampler=DiesAsking(folder),
        study_name="study",
        storage=storage(folder),
    )
    return tune.Tuner(
        Steps,
        param_space={"folder": str(folder)},
        tune_config=tune.TuneConfig(
            search_alg=search, scheduler=scheduler, num_samples=TRIALS, max_concurrent_trials=1
        ),
        run_config=tune.RunConfig(
            name="study",
            storage_path=str(folder),
            verbose=0,
            checkpoint_config=tune.CheckpointConfig(checkpoint_frequency=1),
            **run,
        ),
    )


def kept(folder: Path) -> list[optuna.trial.FrozenTrial]:
    return optuna.load_study(study_name="study", storage=storage(folder)).get_trials()


def callbacks(folder: Path) -> list[tune.Callback]:
    """Ray's own callback for MLflow, then the one that kills."""
    uri = f"sqlite:///{folder}/mlflow.db"
    return [MLflowLoggerCallback(tracking_uri=uri, experiment_name="study"), DiesTold(folder)]


def drive(folder: Path) -> None:
    """What the killed driver runs, in a process of its own on this session's Ray."""
    tuner(folder, callbacks=callbacks(folder)).fit()


def kill_and_restore(folder: Path, moment: str) -> None:
    """Run the study, kill its driver at that moment, and go on as Tune's documentation says."""
    import ray

    (folder / moment).touch()
    driver = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from tests.stories import test_tune_limits as limits; "
            "limits.drive(Path(sys.argv[1]))",
            str(folder),
        ],
        env=os.environ | EVERY_TURN | {"RAY_ADDRESS": ray.get_runtime_context().gcs_address},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert driver.returncode == -signal.SIGKILL, driver.stdout + driver.stderr
    assert not (folder / moment).exists()
    restored = tune.Tuner.restore(str(folder / "study"), Steps, resume_unfinished=True)
    assert len(restored.fit()) == TRIALS


def test_a_driver_killed_while_it_asks_leaves_a_trial_in_optuna_for_ever(tmp_path: Path) -> None:
    kill_and_restore(tmp_path, "die-asking")
    states = [trial.state for trial in kept(tmp_path)]
    # Tune ran four trials. Optuna has five, and waits for the second.
    assert states == [TrialState.COMPLETE, TrialState.RUNNING, *[TrialState.COMPLETE] * 3]


def test_a_driver_killed_at_a_trials_end_leaves_it_twice_in_mlflow(tmp_path: Path) -> None:
    kill_and_restore(tmp_path, "die-told")
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    experiment = client.get_experiment_by_name("study")
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    tried = [run.data.params["x"] for run in runs]
    assert len(kept(tmp_path)) == len(set(tried)) == TRIALS
    assert len(tried) == TRIALS + 1


def test_optunasearch_tells_a_stopped_trial_as_complete(tmp_path: Path) -> None:
    asha = AsyncHyperBandScheduler(
        metric="score", mode="max", max_t=STEPS, grace_period=1, reduction_factor=2
    )
    results = tuner(tmp_path, asha).fit()
    steps = [(results[number].metrics or {})["step"] for number in range(TRIALS)]
    assert sorted(steps) == [1, 1, 1, STEPS]
    assert {trial.state for trial in kept(tmp_path)} == {TrialState.COMPLETE}


def test_optunasearch_takes_the_last_steps_score_and_leaves_it_out_of_the_curve(tmp_path: Path) -> None:
    tuner(tmp_path).fit()
    trials = kept(tmp_path)
    assert [trial.value for trial in trials] == [trial.params["x"] * 0.1 for trial in trials]
    assert {tuple(trial.intermediate_values) for trial in trials} == {(1, 2)}


def test_tune_counts_the_deaths_of_a_trial_over_its_whole_length(tmp_path: Path) -> None:
    for step in range(1, STEPS + 1):
        (tmp_path / f"die-in-step-{step}").touch()
    results = tuner(tmp_path, failure_config=tune.FailureConfig(max_failures=STEPS - 1)).fit()
    # The first trial died once in each step and went on from its checkpoint, but for the last time.
    assert len(results.errors) == 1
    assert [trial.state for trial in kept(tmp_path)] == [TrialState.FAIL, *[TrialState.COMPLETE] * 3]
