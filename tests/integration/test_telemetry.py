"""A training that is logged to Weights & Biases too, profiled, and resumed. wandb writes offline."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import mlflow
import pytest

from raycls import home as homes
from raycls import tracking
from raycls.config import Config, override
from raycls.data.packed import INFO
from raycls.data.versions import open_dataset
from raycls.errors import DataError, UsageError
from raycls.training.filing import TrainingResult
from raycls.training.presets import preset
from raycls.training.profile import PARTS
from raycls.training.trainer import resume, train
from raycls.tuning.plan import plan
from raycls.tuning.study import tune
from tests.epochs import AtEpoch
from tests.wandb_runs import offline, record


@pytest.fixture
def config(digits_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Config:
    offline(monkeypatch, tmp_path)
    return override(preset("smoke", open_dataset("digits").info), ["epochs=3", "precision=fp32"])


def _runs() -> int:
    return len(tracking.client().search_runs([tracking.experiment("digits")], max_results=1000))


def test_one_training_in_mlflow_and_in_weights_and_biases_with_a_profile(
    trained: TrainingResult, config: Config, digits_home: Path
) -> None:
    result = train("digits", config, workers=2, model="digits-logged", log=("wandb",), profile=True)
    logged = tracking.client().get_run(result.run_id)
    written = record(digits_home, logged.data.tags["wandb"])
    assert (written.project, written.name, written.exit_code) == ("digits", logged.info.run_name, 0)
    assert written.config["optim.lr"] == config.optim.lr
    for name in ("train_loss", "val_accuracy", "lr"):
        points = tracking.client().get_metric_history(result.run_id, name)
        assert written.curve(name) == pytest.approx({point.step: point.value for point in points})
    assert written.summary["test_accuracy"] == pytest.approx(result.metrics["test_accuracy"])
    assert {"figures/confusion_matrix", "tables/class_accuracy", "tables/profile/table"} <= written.media
    assert {"model.safetensors", "model.json"} <= set(written.artifacts["model"])

    assert result.profile is not None
    assert (result.profile.epoch, set(result.profile.seconds)) == (2, set(PARTS))
    assert result.profile.seconds["average"] > 0
    mlflow.set_tracking_uri(homes.tracking_uri())
    folder = mlflow.artifacts.download_artifacts(run_id=result.run_id, artifact_path="profile")
    trace = json.loads(gzip.decompress((Path(folder) / "trace.json.gz").read_bytes()))
    assert {"forward", "average"} <= {event["name"] for event in trace["traceEvents"]}
    assert json.loads((Path(folder) / "table.json").read_text())["columns"] == [
        "part",
        "share",
        "ms_per_step",
    ]


@pytest.mark.long
def test_a_resumed_run_goes_on_in_the_same_run_of_weights_and_biases(
    trained: TrainingResult, config: Config, digits_home: Path, storage: Path, at_epoch: AtEpoch
) -> None:
    info = open_dataset("digits").path / INFO
    before = info.read_text()

    def change() -> None:
        other = info.with_suffix(".other")
        other.write_text(before.replace(open_dataset("digits").info.fingerprint, "0" * 64))
        other.replace(info)

    at_epoch(2, change)
    long = override(config, ["epochs=40", "batch_size=16"])
    try:
        with pytest.raises(DataError):
            train("digits", long, workers=1, model="digits-resumed", log=("wandb",))
    finally:
        info.write_text(before)
    (stopped, *_) = tracking.find_runs("digits", "tags.kind = 'training' and attributes.status = 'FAILED'")
    former = stopped.data.tags["wandb"]
    assert record(digits_home, former).exit_code == 1

    result = resume("digits", stopped.info.run_id)
    assert tracking.client().get_run(result.run_id).data.tags["wandb"] == former
    written = record(digits_home, former)
    assert (written.exit_code, sorted(written.curve("val_loss"))) == (0, list(range(1, 41)))


@pytest.mark.long
def test_a_study_and_its_winner_are_two_runs_of_one_group(
    trained: TrainingResult, config: Config, digits_home: Path
) -> None:
    spec = plan("digits", config, trials=2, max_epochs=1, model="digits-studied", log=("wandb",))
    outcome = tune(spec, "logged-study")
    study, winner = (
        record(digits_home, tracking.client().get_run(run_id).data.tags["wandb"])
        for run_id in (outcome.study.run_id, outcome.training.run_id)
    )
    assert study.group == winner.group == study.name == "logged-study"
    assert study.summary["best_val_accuracy"] == pytest.approx(outcome.study.best.score)
    assert "tables/trials_table" in study.media
    assert sorted(winner.curve("val_accuracy")) == [1, 2, 3]


def test_what_weights_and_biases_does_not_take_leaves_no_run(
    trained: TrainingResult, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch, tmp_path, "online")
    before = _runs()
    with pytest.raises(UsageError, match="wandb login"):
        train("digits", config, log=("wandb",))
    assert _runs() == before
