"""A run that is trained is not lost where its evaluation fails: its weights are logged, and resuming registers it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raycls import tracking
from raycls.config import override
from raycls.data.packed import PackedDataset
from raycls.errors import BrokenOffError, TrainingError
from raycls.tracking import resumable
from raycls.tracking.resumable import TrainingSpec
from raycls.training.checkpoints import CheckpointStore
from raycls.training.loop import fit
from raycls.training.presets import preset
from raycls.training.trainer import resume

NAME = "digits-evaluated-later"


@pytest.fixture
def run_id(digits: PackedDataset, tmp_path: Path) -> str:
    """Return the MLflow run of a training that was interrupted after its last epoch."""
    config = override(preset("smoke", digits.info), ["epochs=2", "precision=fp32"])
    spec = TrainingSpec(
        dataset="digits",
        fingerprint=digits.info.fingerprint,
        config=config,
        workers=1,
        storage=str(tmp_path),
        model="evaluated-later",
        lineage={},
    )
    store = CheckpointStore(spec.storage, NAME)
    fit(
        config,
        digits,
        on_epoch=lambda metrics, snapshot: store.keep(int(metrics["epoch"]), snapshot.save),
    )
    with pytest.raises(TrainingError), resumable.begin(spec, NAME, {}) as run:
        raise TrainingError("stopped")
    return run.id


def test_an_evaluation_that_fails_costs_no_training(run_id: str, tmp_path: Path) -> None:
    """Ray is not started here: a run whose epochs are trained needs none."""
    artifacts = Path(tracking.client().get_run(run_id).info.artifact_uri.removeprefix("file://"))
    in_the_way = artifacts / "confusion_matrix.png"
    in_the_way.mkdir(parents=True)
    (in_the_way / "file").touch()
    with pytest.raises(BrokenOffError) as error:
        resume("digits", NAME)
    told = str(error.value)
    assert re.search("the model is trained, and what follows failed: .*Is a directory", told)
    assert (
        f"its checkpoint is {tmp_path}/{NAME}/attempt-1/epoch-00002; evaluate and register it, without"
        in told
    )
    assert told.endswith(f"training again, with: raycls train digits --resume {NAME}")
    found = tracking.client().get_run(run_id)
    assert found.info.status == "FAILED"
    assert "the model is trained" in found.data.tags["ended"]
    assert {path.name for path in (artifacts / "checkpoint").iterdir()} == {
        "model.safetensors",
        "model.json",
    }

    (in_the_way / "file").unlink()
    in_the_way.rmdir()
    result = resume("digits", NAME)
    assert result.version is not None
    assert result.version.reference == "evaluated-later/1"
    assert result.metrics["epoch"] == 2
    assert tracking.client().get_run(run_id).info.status == "FINISHED"
    assert {path.name for path in (tmp_path / NAME).iterdir()} - {".writable"} == {"attempt-1"}
    logged = {path.name for path in (artifacts / "checkpoint").iterdir()}
    assert {"model.safetensors", "model.json", "drift.json", "MLmodel"} <= logged
