"""Runs on a real MLflow over SQLite: how they end, what is found of them, their curves and files."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE

from raycls import tracking
from raycls.config import Config
from raycls.errors import RegistryError, UsageError
from raycls.tracking import resumable
from raycls.tracking.resumable import TrainingSpec
from tests.wandb_runs import offline, record


def test_a_run_says_how_it_ended(home: Path) -> None:
    endings = {}
    for error in (None, ValueError("too bad"), KeyboardInterrupt()):
        try:
            with tracking.run("endings", "run", {}) as run:
                if error:
                    raise error
        except (ValueError, KeyboardInterrupt):
            pass
        ended = tracking.client().get_run(run.id)
        endings[ended.info.status] = ended.data.tags.get("ended")
    assert endings == {"FINISHED": None, "FAILED": "ValueError: too bad", "KILLED": "interrupted"}


def test_the_password_of_the_storage_path_stays_out_of_mlflow(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = "s3://key:secret@bucket/runs?region=eu"
    spec = TrainingSpec(
        dataset="shapes", fingerprint="f", config=Config(), storage=storage, workers=1, lineage={}
    )
    with pytest.raises(KeyboardInterrupt), resumable.begin(spec, "run", {}) as run:
        raise KeyboardInterrupt
    assert "secret" not in str(tracking.client().get_run(run.id).to_dictionary())

    assert resumable.find(TrainingSpec, "run", "shapes").spec.storage == "s3://bucket/runs?region=eu"
    monkeypatch.setenv("RAYCLS_STORAGE", storage)
    assert resumable.find(TrainingSpec, "run", "shapes").spec.storage == storage
    monkeypatch.setenv("RAYCLS_STORAGE", "s3://key:secret@other/runs")
    assert resumable.find(TrainingSpec, "run", "shapes").spec.storage == "s3://bucket/runs?region=eu"


def test_the_history_of_a_run_counts_each_epoch_once(home: Path, tmp_path: Path) -> None:
    with tracking.run("curves", "run", {}) as run:
        for epoch, loss in ((1, 2.0), (2, 1.0), (3, 1.5)):
            run.log_metrics({"epoch": epoch, "train_loss": loss}, step=epoch)
        run.log_metrics({"epoch": 2, "train_loss": 1.0, "test_accuracy": 0.9}, step=2)
        run.log_metrics({"of_no_epoch": 1.0})
    assert tracking.history(run.id) == [
        {"epoch": 1, "train_loss": 2.0},
        {"epoch": 2, "train_loss": 1.0, "test_accuracy": 0.9},
        {"epoch": 3, "train_loss": 1.5},
    ]
    with pytest.raises(RegistryError, match="is gone"):
        tracking.history("0" * 32)


def test_artifacts_are_added_to_a_run_that_has_ended(home: Path, tmp_path: Path) -> None:
    with tracking.run("ended", "run", {}) as run:
        pass
    (tmp_path / "report" / "charts").mkdir(parents=True)
    (tmp_path / "report" / "charts" / "one.png").write_bytes(b"a picture")
    run.log_directory(tmp_path / "report", "report/ended-test")
    listed = tracking.client().list_artifacts(run.id, "report/ended-test/charts")
    assert [file.path for file in listed] == ["report/ended-test/charts/one.png"]
    with pytest.raises(RegistryError, match="MLflow did not take report"):
        tracking.Run("0" * 32).log_directory(tmp_path / "report", "report/nowhere")


def test_a_run_that_is_gone_is_told_from_an_mlflow_that_cannot_say(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tracking.run("any", "run", {}) as run:
        pass
    found = tracking.find_run(run.id)
    assert found is not None
    assert found.info.status == "FINISHED"
    assert tracking.find_run("0" * 32) is None
    assert tracking.find_run("no id at all") is None

    def unavailable(*_: object) -> None:
        raise MlflowException("the database is locked", TEMPORARILY_UNAVAILABLE)

    monkeypatch.setattr(tracking.client(), "get_run", unavailable)
    for ask in (tracking.find_run, tracking.history):
        with pytest.raises(RegistryError, match=f"does not tell of run {run.id}: .*is locked"):
            ask(run.id)


def test_a_resumed_run_goes_on_in_the_tools_that_it_began_with(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch, tmp_path)
    spec = TrainingSpec(
        dataset="shapes", fingerprint="f", config=Config(), storage="s", workers=1, lineage={}, log=("wandb",)
    )
    with pytest.raises(KeyboardInterrupt), resumable.begin(spec, "run", {"study": "shapes-1"}) as run:
        run.log_metrics({"epoch": 1, "val_loss": 2.0}, step=1)
        raise KeyboardInterrupt
    assert record(home, tracking.client().get_run(run.id).data.tags["wandb"]).exit_code == 1

    former = resumable.find(TrainingSpec, "run", "shapes")
    offline(monkeypatch, tmp_path, "online")
    with pytest.raises(UsageError, match="wandb login"), resumable.again(former):
        pass
    assert tracking.client().get_run(run.id).info.status == "KILLED"  # as before: it can be resumed still
    offline(monkeypatch, tmp_path)
    with resumable.again(former) as again:
        again.log_metrics({"epoch": 2, "val_loss": 1.0}, step=2)
    ended = tracking.client().get_run(run.id)
    written = record(home, ended.data.tags["wandb"])
    assert (ended.info.status, written.exit_code, written.group) == ("FINISHED", 0, "shapes-1")
    assert written.curve("val_loss") == {1: 2.0, 2: 1.0}
    assert written.config["optim.lr"] == Config().optim.lr


def test_a_tool_that_takes_no_run_leaves_none_in_mlflow(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch, tmp_path, "online")
    spec = TrainingSpec(
        dataset="shapes", fingerprint="f", config=Config(), storage="s", workers=1, lineage={}, log=("wandb",)
    )
    with pytest.raises(UsageError, match="wandb login"), resumable.begin(spec, "run", {}):
        pass
    assert not tracking.find_runs("shapes", "tags.kind = 'training'")
