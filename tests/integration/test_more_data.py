"""`raycls train --folds` and `--refit`, `raycls tune --refit` and `raycls soup`, with real trainings of digits."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from raycls import registry
from raycls.cli import app
from raycls.data.versions import open_dataset
from raycls.engines.predictor import Predictor
from raycls.errors import UsageError
from raycls.lifecycle.retraining import Wanted, check
from raycls.models.card import load_card
from raycls.registry.compare import compare
from raycls.tracking import resumable
from raycls.training import folds, trainer
from raycls.training.filing import TrainingResult
from raycls.training.refit import before_refit

SMOKE = "--preset", "smoke", "--workers", "1"


def _run(*arguments: str) -> dict[str, Any]:
    outcome = CliRunner().invoke(app, [*arguments, "--json"])
    assert outcome.exit_code == 0, outcome.output + repr(outcome.exception)
    return json.loads(outcome.stdout)


def _refusal(*arguments: str) -> str:
    outcome = CliRunner().invoke(app, list(arguments))
    assert outcome.exit_code != 0
    return str(outcome.exception)


def test_an_interrupted_run_over_folds_trains_no_fold_twice(
    trained: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []
    real = trainer.train

    def interrupted_at_the_second(*arguments: Any, **options: Any) -> TrainingResult:
        begun.append(options["lineage"]["fold"])
        if len(begun) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    monkeypatch.setattr(trainer, "train", interrupted_at_the_second)
    outcome = CliRunner().invoke(app, ["train", "digits", *SMOKE, "--folds", "2", "--set", "epochs=2"])
    assert outcome.exit_code != 0
    (name,) = {line.split()[-1] for line in outcome.stderr.splitlines() if line.startswith("go on with: ")}
    assert "is finished" not in _refusal("train", "digits", "--resume", name, "--folds", "2")
    made = _run("train", "digits", "--resume", name, "--workers", "1")
    assert begun == ["1", "2", "2"]
    assert "is finished" in _refusal("train", "digits", "--resume", name)

    version = registry.resolve(made["model"])
    card = load_card(registry.checkpoint(version))
    assert card.learned_splits == ("train", "val")
    assert (card.network, len(card.arguments["members"])) == ("ensemble", 2)
    assert not [figure for figure in made if figure.startswith("val_")]
    assert made["fold_accuracy_low"] <= made["fold_accuracy_mean"] <= made["fold_accuracy_high"]
    dataset = open_dataset("digits")
    runs = resumable.tagged("digits", {"folds": name})
    assert len(runs) == 2
    alone = [run.data.metrics["test_accuracy"] for run in runs]
    assert made["test_accuracy"] > np.mean(alone) - 0.02
    assert version.engine_timings
    shown = _run("models", "show", version.name, version.version)
    states = {step["name"]: step["state"] for step in shown["lineage"]}
    assert states["fold"] == states["dataset"] == states["run"] == "verified"
    # Promotion compares it on the pictures that no member has learned.
    assert trained.version is not None
    assert compare(version, trained.version).split == "gate"
    answers = Predictor.load(registry.checkpoint(version)).probabilities(
        np.array(dataset.images("test")[:20])
    )
    assert answers.shape == (20, 10)


def test_folds_that_a_dataset_does_not_allow_are_refused(trained: TrainingResult) -> None:
    with pytest.raises(Exception, match="batch_size"):
        folds.train_folds("digits", trainer_config(batch_size=1400), 2)
    assert trained.version is not None
    with pytest.raises(UsageError, match="has learned images of digits, which are in each fold"):
        folds.train_folds("digits", trainer_config(), 2, init=trained.version.reference)


def trainer_config(**changes: Any) -> Any:
    from raycls.config import override
    from raycls.training.presets import preset

    base = preset("smoke", open_dataset("digits").info)
    return override(base, [f"{name}={value}" for name, value in changes.items()])


def test_a_refit_learns_val_keeps_the_temperature_and_is_no_start(trained: TrainingResult) -> None:
    assert trained.version is not None
    former = load_card(registry.checkpoint(trained.version))
    made = _run("train", "digits", "--refit", trained.version.reference, "--model", "refitted")
    version = registry.resolve(made["model"])
    card = load_card(registry.checkpoint(version))
    assert (card.temperature, card.learned_splits) == (former.temperature, ("train", "val"))
    assert card.metrics["epoch"] == former.config["training"]["epochs"]  # the last one, whatever val says
    assert card.config == former.config
    assert not [figure for figure in made if figure.startswith("val_")]
    assert compare(version, trained.version).split == "gate"
    assert before_refit(version) == registry.resolve(trained.version.reference)
    shown = _run("models", "show", version.name, version.version)
    assert {step["name"]: step["state"] for step in shown["lineage"]}["refit of"] == "verified"
    assert "has learned val already" in _refusal("train", "digits", "--refit", version.reference)
    assert "refitted from" in _refusal("train", "digits", "--init", version.reference)
    assert "uses the settings of that model" in _refusal(
        "train", "digits", "--refit", version.reference, "--folds", "2"
    )
    check(Wanted(model="refitted"))  # it can be retrained


@pytest.mark.long
def test_a_study_refits_its_winner_and_its_best_trials_make_a_soup_or_none(trained: TrainingResult) -> None:
    study = "digits-soup-study"
    found = _run(
        "tune",
        "digits",
        *SMOKE,
        "--trials",
        "2",
        "--max-epochs",
        "1",
        "--set",
        "epochs=2",
        "--refit",
        "--study",
        study,
        "--model",
        "soups",
    )
    version = registry.resolve(found["model"])
    assert load_card(registry.checkpoint(version)).learned_splits == ("train", "val")
    winner = before_refit(version)
    assert winner.tags["study"] == study
    made = _run("soup", "--study", study, "--members", "2")
    assert made["model"] is None  # of random starts, the best one stays alone
    trials = {run.data.tags["trial"] for run in resumable.tagged("digits", {"study": study})}
    assert trials == {"0", "1"}  # the winner was not trained again
    assert "name two versions" in _refusal("soup")
    assert "two members" in _refusal("soup", winner.reference)
