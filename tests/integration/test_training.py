"""Training and tuning under real Ray, logged to a real MLflow."""

from __future__ import annotations

from pathlib import Path

import mlflow
import numpy as np
import pytest

from raycls import home, registry, tracking
from raycls.config import override
from raycls.data.versions import open_dataset
from raycls.engines.predictor import Predictor
from raycls.errors import ConfigError, UnknownDatasetError, UsageError
from raycls.training.evaluation import evaluate
from raycls.training.filing import TrainingResult
from raycls.training.presets import preset
from raycls.training.trainer import train


def test_a_run_is_logged_and_registered(trained: TrainingResult) -> None:
    version = trained.version
    assert version is not None
    logged = tracking.client().get_run(trained.run_id)
    assert logged.info.status == "FINISHED"
    assert logged.data.params["network.name"] == "fastcnn"
    assert logged.data.tags["dataset_fingerprint"] == open_dataset("digits").info.fingerprint
    history = tracking.client().get_metric_history(trained.run_id, "val_accuracy")
    assert [point.step for point in history][:5] == [1, 2, 3, 4, 5]
    artifacts = {file.path for file in tracking.client().list_artifacts(trained.run_id)}
    assert {"checkpoint", "confusion_matrix.png", "class_accuracy.json", "dataset.json"} <= artifacts
    mlflow.set_tracking_uri(home.tracking_uri())
    table = mlflow.MlflowClient().load_table(
        logged.info.experiment_id, "class_accuracy.json", run_ids=[trained.run_id]
    )
    assert list(map(str, table["class"])) == list(open_dataset("digits").info.classes)
    assert trained.metrics["test_accuracy"] > 0.8
    assert version.metrics["test_accuracy"] == trained.metrics["test_accuracy"]


def test_the_registered_model_is_the_best_epoch(trained: TrainingResult) -> None:
    version = trained.version
    assert version is not None
    history = tracking.client().get_metric_history(trained.run_id, "val_accuracy")
    predictor = Predictor.load(registry.checkpoint(version))
    again = evaluate(predictor, open_dataset("digits"), "val")
    assert again.accuracy == pytest.approx(max(point.value for point in history))
    assert np.array_equal(
        evaluate(predictor, open_dataset("digits"), "test").confusion, trained.evaluation.confusion
    )


def test_two_workers_train_one_model(trained: TrainingResult) -> None:
    config = override(preset("smoke", open_dataset("digits").info), ["epochs=4", "seed=3"])
    result = train("digits", config, workers=2, model="digits-by-two")
    assert result.metrics["test_accuracy"] > 0.6
    assert result.version is not None
    assert result.version.reference == "digits-by-two/1"
    assert tracking.client().get_run(result.run_id).data.params["workers"] == "2"


def test_what_cannot_run_is_refused_before_anything_starts(digits_home: Path) -> None:
    config = preset("smoke", open_dataset("digits").info)
    with pytest.raises(UnknownDatasetError, match="raycls data prepare"):
        train("nope", config)
    with pytest.raises(ConfigError, match="batch_size=60000"):
        train("digits", override(config, ["batch_size=60000"]))


def test_more_workers_than_cpus_are_refused(trained: TrainingResult) -> None:
    with pytest.raises(UsageError, match="--workers 3 is more than the cluster's 2 CPUs"):
        train("digits", preset("smoke", open_dataset("digits").info), workers=3)
