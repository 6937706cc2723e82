"""Studies on real Ray, kept in a real Optuna storage and a real MLflow: what they find, and that nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raycls import home, registry, tracking
from raycls.cli import run
from raycls.config import Config, override
from raycls.data import sharing
from raycls.data.versions import open_dataset
from raycls.errors import ConfigError, StudyError, UsageError
from raycls.models.card import load_card
from raycls.registry import history
from raycls.reports.study_report import write_report
from raycls.training.filing import TrainingResult
from raycls.training.presets import preset
from raycls.tuning import lineage, record
from raycls.tuning.lineage import trace
from raycls.tuning.plan import plan
from raycls.tuning.space import Domain
from raycls.tuning.study import resume, search, tune
from tests.datasets import make_version
from tests.studies import assert_whole


@pytest.fixture
def base(digits_home: Path) -> Config:
    return override(preset("smoke", open_dataset("digits").info), ["epochs=6", "train_fraction=0.5"])


def test_a_study_leaves_one_run_per_trial_and_a_better_champion(
    champion: TrainingResult, base: Config
) -> None:
    outcome = tune(plan("digits", base, trials=6, max_epochs=3, scheduler="asha", seed=1))
    study = outcome.study
    assert_whole(study.trials, study.run_id, 6)
    assert len({str(trial.values) for trial in study.trials}) == 6
    assert study.best.score == max(trial.score or 0 for trial in study.trials)
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
    decided = history.events("digits")[0]
    assert (decided.version, decided.former) == (version.version, former.version)
    assert (decided.by, decided.kind == "promotion") == (f"study {study.name}", outcome.promoted)
    assert (decided.figures["gain"] > 0) >= outcome.promoted
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


def test_unbalanced_classes_make_a_study_go_by_a_macro_metric(
    ray_session: None, base: Config, digits_home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    digits = open_dataset("digits")
    chosen = {
        split: np.flatnonzero((labels > 0) | (np.arange(len(labels)) % 50 == 0))
        for split, labels in ((split, digits.labels(split)) for split in digits.info.counts)
    }
    make_version(
        "few-zeros",
        {split: digits.images(split)[rows] for split, rows in chosen.items()},
        {split: digits.labels(split)[rows] for split, rows in chosen.items()},
        digits.info.classes,
    )
    assert plan("few-zeros", base).metric == "val_macro_accuracy"
    assert "unbalanced beyond 1:5: the study goes by macro_recall" in capsys.readouterr().err
    assert plan("few-zeros", override(base, ["training.metric=macro_f1"])).metric == "val_macro_f1"
    assert plan("digits", base).metric == "val_accuracy"
    assert "unbalanced" not in capsys.readouterr().err


def test_what_cannot_be_searched_is_refused_before_anything_starts(ray_session: None, base: Config) -> None:
    with pytest.raises(UsageError, match="at least one trial"):
        plan("digits", base, trials=0)
    with pytest.raises(ConfigError, match="search='annealing'"):
        plan("digits", base, search="annealing")
    with pytest.raises(ConfigError, match=r"batch_size=60000 is more than the \d+ training images"):
        plan("digits", base, space={"training.batch_size": Domain(low=16, high=60000)})
    with pytest.raises(UsageError, match="a trial needs 3 CPUs, the cluster's nodes have 2 CPUs"):
        plan("digits", base, cpus_per_trial=3)


def test_trials_that_fail_are_told_and_the_study_goes_on_until_they_are_too_many(
    champion: TrainingResult, base: Config, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = override(base, ["optim.name=adamw", "weight_decay=1", "precision=fp32", "epochs=8"])
    space = {"optim.lr": Domain(choices=(0.001, 10.0, 9.0, 8.0))}
    one_by_one = plan(
        "digits", wild, space=space, search="grid", scheduler="none", max_failures=1, cpus_per_trial=2
    )
    with pytest.raises(
        StudyError, match=r"2 trials failed, --max-failures 1 was allowed; the last: the loss"
    ):
        search(one_by_one, "wild")
    trials = record.read("wild")[:3]  # the fourth was never started
    assert [trial.state for trial in trials] == ["done", "failed", "failed"]
    assert "lower the learning rate (optim.lr=10)" in trials[1].reason
    failed = tracking.find_runs("digits", "tags.study = 'wild' and attributes.status = 'FAILED'")
    of_trials = [run.data.tags for run in failed if "trial" in run.data.tags]
    assert {tags["trial"] for tags in of_trials} == {"1", "2"}
    assert all("lower the learning rate" in tags["ended"] for tags in of_trials)
    assert "lower the learning rate" in capsys.readouterr().err


@pytest.mark.long
def test_accuracy_and_latency_and_a_study_killed_after_its_last_trial(
    champion: TrainingResult,
    base: Config,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = plan(
        "digits", base, trials=4, max_epochs=2, objective="accuracy,latency", model="digits-fast", seed=2
    )
    assert spec.scheduler == "none"
    study = search(spec, "widths")
    assert_whole(study.trials, study.run_id, 4)
    latency = {str(trial.values["network.widths"]): trial.latency_ms for trial in study.trials}
    assert len(set(latency.values())) == len(latency), "one latency per architecture"
    assert all(
        not (other.score > point.score and other.latency_ms < point.latency_ms)  # type: ignore[operator]
        for point in study.front
        for other in study.trials
    )
    assert study.best in study.front
    capsys.readouterr()
    assert run(["tune", "show", "widths"]) == 0
    assert f"The Pareto front has {len(study.front)} points" in capsys.readouterr().out

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
    with monkeypatch.context() as elsewhere:  # a machine that has no version of the dataset
        elsewhere.setattr(lineage, "versions_of", lambda _: [])
        elsewhere.setattr(sharing, "pull", lambda *_: pytest.fail("a look at the chain pulled a dataset"))
        assert (trace(version)[0].name, trace(version)[0].state) == ("dataset", "absent")
    page = write_report("widths", tmp_path / "page.html").read_text()
    assert "Accuracy against latency" in page
    assert f"Trial #{study.best.number} was chosen" in page
