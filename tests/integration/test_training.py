"""Training and tuning under real Ray, logged to a real MLflow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raycls import registry
from raycls.config import override, preset
from raycls.data.packed import open_dataset
from raycls.errors import ConfigError, TrainingError, UnknownDatasetError, UsageError
from raycls.models.predictor import Predictor
from raycls.training.evaluation import evaluate
from raycls.training.trainer import TrainingResult, train
from raycls.training.tuner import search, train_best


def test_a_run_is_logged_and_registered(trained: TrainingResult) -> None:
    version = trained.version
    assert version is not None
    logged = registry.client().get_run(trained.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.data.params["network.name"] == "fastcnn"
    assert logged.data.tags["dataset_fingerprint"] == open_dataset("digits").manifest.fingerprint
    history = registry.client().get_metric_history(trained.run_id, "val_accuracy")
    assert [point.step for point in history][:5] == [1, 2, 3, 4, 5]
    artifacts = {file.path for file in registry.client().list_artifacts(trained.run_id)}
    assert {"checkpoint", "confusion_matrix.png", "class_accuracy.json", "dataset.json"} <= artifacts
    assert trained.metrics["test_accuracy"] > 0.8
    assert version.metrics["test_accuracy"] == trained.metrics["test_accuracy"]


def test_the_registered_model_is_the_best_epoch(trained: TrainingResult) -> None:
    version = trained.version
    assert version is not None
    history = registry.client().get_metric_history(trained.run_id, "val_accuracy")
    predictor = Predictor.load(registry.checkpoint(version))
    again = evaluate(predictor, open_dataset("digits"), "val")
    assert again.accuracy == pytest.approx(max(point.value for point in history))
    assert np.array_equal(
        evaluate(predictor, open_dataset("digits"), "test").confusion, trained.evaluation.confusion
    )


def test_two_workers_train_one_model(trained: TrainingResult) -> None:
    config = override(preset("smoke", open_dataset("digits").manifest), ["epochs=4", "seed=3"])
    result = train("digits", config, workers=2, model="digits-by-two")
    assert result.metrics["test_accuracy"] > 0.6
    assert result.version is not None
    assert result.version.reference == "digits-by-two/1"
    assert registry.client().get_run(result.run_id).data.params["workers"] == "2"


def test_a_worker_that_fails_is_one_line(trained: TrainingResult) -> None:
    config = override(
        preset("smoke", open_dataset("digits").manifest),
        ["lr=10", "optim.name=adamw", "epochs=200", "weight_decay=1", "precision=fp32"],
    )
    before = len(registry.list_models())
    with pytest.raises(TrainingError, match="lower the learning rate") as error:
        train("digits", config)
    assert "\n" not in str(error.value)
    assert len(registry.list_models()) == before


def test_what_cannot_run_is_refused_before_anything_starts(digits_home: Path) -> None:
    config = preset("smoke", open_dataset("digits").manifest)
    with pytest.raises(UnknownDatasetError, match="raycls data prepare"):
        train("nope", config)
    with pytest.raises(ConfigError, match="batch_size=60000"):
        train("digits", override(config, ["batch_size=60000"]))
    with pytest.raises(UsageError, match="at least one trial"):
        search("digits", config, trials=0)


def test_more_workers_than_cpus_are_refused(trained: TrainingResult) -> None:
    with pytest.raises(UsageError, match="--workers 3 is more than the cluster's 2 CPUs"):
        train("digits", preset("smoke", open_dataset("digits").manifest), workers=3)


def test_a_study_leaves_one_run_per_trial_and_a_better_champion(trained: TrainingResult) -> None:
    base = override(preset("smoke", open_dataset("digits").manifest), ["epochs=6", "train_fraction=0.5"])
    study = search("digits", base, trials=6, max_epochs=3, seed=1)
    assert len(study.trials) == 6
    assert len({str(trial.values) for trial in study.trials}) == 6
    assert study.best.val_accuracy == max(trial.val_accuracy or 0 for trial in study.trials)
    # The preset itself is the first trial, so that a study never ends below it.
    assert any(trial.values["optim.lr"] == base.optim.lr for trial in study.trials)
    assert {trial.epochs for trial in study.trials} <= {1, 2, 3}
    assert any(trial.epochs < 3 for trial in study.trials), "ASHA stopped nothing"
    for path, value in study.best.values.items():
        assert study.config.flat()[path] == value
    assert study.config.training.epochs == 6

    client = registry.client()
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    runs = client.search_runs(
        [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{study.run_id}'", max_results=100
    )
    assert len(runs) == 6
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert max(run.data.metrics["val_accuracy"] for run in runs) <= (study.best.val_accuracy or 0)
    assert client.get_run(study.run_id).data.params["trials"] == "6"

    result, promoted = train_best("digits", study)
    version = result.version
    assert version is not None
    assert version.tags["study"] == study.name
    assert version.tags["trial"] == study.best.number
    former = trained.version
    assert former is not None
    assert promoted == (version.metrics["val_accuracy"] > former.metrics["val_accuracy"])
    assert registry.resolve("digits").version == (version if promoted else former).version
    if promoted:  # the other tests know the session's own model as champion
        registry.promote(former.name, former.version)
