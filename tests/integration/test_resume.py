"""What ends a training run, what is kept of it then, and what cannot be resumed. tests/stories kills runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycls import registry, tracking
from raycls.config import Config, override
from raycls.data.packed import INFO
from raycls.data.versions import open_dataset
from raycls.errors import BrokenOffError, DataError, TrainingError, UsageError
from raycls.tracking import resumable
from raycls.tracking.resumable import TrainingSpec
from raycls.training.filing import TrainingResult
from raycls.training.presets import preset
from raycls.training.trainer import resume, train
from tests.epochs import AtEpoch, saved_epochs

# Dropout and translation draw random numbers; small batches make epochs long enough to be hit.
SETTINGS = ["epochs=16", "batch_size=16", "dropout=0.1", "translate=1", "precision=fp32"]


@pytest.fixture
def config(digits_home: Path) -> Config:
    return override(preset("smoke", open_dataset("digits").info), SETTINGS)


def _runs() -> set[str]:
    found = tracking.client().search_runs([tracking.experiment("digits")], max_results=1000)
    return {run.info.run_id for run in found}


def test_images_that_change_under_a_run_end_it_at_the_next_epoch(
    trained: TrainingResult, config: Config, storage: Path, at_epoch: AtEpoch
) -> None:
    info = open_dataset("digits").path / INFO
    before = info.read_text()

    def change() -> None:
        other = info.with_suffix(".other")
        other.write_text(before.replace(open_dataset("digits").info.fingerprint, "0" * 64))
        other.replace(info)

    at_epoch(2, change)
    try:
        with pytest.raises(
            DataError,
            match=r"digits@1 (was changed|is damaged).*; the checkpoint of epoch (\d+) is kept in ",
        ):
            train("digits", override(config, ["epochs=400"]), workers=1)
    finally:
        info.write_text(before)
    assert 2 <= max(saved_epochs()) < 400


def test_a_loss_that_is_not_finite_is_one_line_and_not_tried_again(
    trained: TrainingResult, config: Config, storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wild = override(config, ["lr=10", "optim.name=adamw", "weight_decay=1", "epochs=200"])
    models = registry.list_models()
    with pytest.raises(TrainingError, match="lower the learning rate") as error:
        train("digits", wild, workers=2)
    assert not isinstance(error.value, BrokenOffError)
    assert "\n" not in str(error.value)
    assert "go on with" not in str(error.value)
    assert "going on after" not in capsys.readouterr().err
    assert registry.list_models() == models


def test_a_storage_path_that_cannot_be_written_is_refused_before_anything_starts(
    digits_home: Path, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _runs()
    for path, reason in (("/dev/null/runs", "Not a directory"), ("/proc/runs", "No such file"), ("runs", "")):
        monkeypatch.setenv("RAYCLS_STORAGE", path)
        with pytest.raises(TrainingError, match=rf"{path}.*{reason}") as error:
            train("digits", config)
        assert "\n" not in str(error.value)
    assert _runs() == before


def test_what_cannot_be_resumed_is_told(
    trained: TrainingResult, config: Config, storage: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="no training run 'nope' of digits; those not finished: "):
        resume("digits", "nope")
    with pytest.raises(UsageError, match="is finished"):
        resume("digits", trained.run_id)
    spec = TrainingSpec(
        dataset="digits",
        fingerprint="0" * 64,
        config=config,
        workers=1,
        storage=str(storage),
        lineage={},
    )
    for fingerprint, told in (
        ("0" * 64, "no version of dataset digits on this machine has the fingerprint 0000"),
        (open_dataset("digits").info.fingerprint, f"there is no {storage}/other"),
    ):
        with (
            pytest.raises(TrainingError),
            resumable.begin(spec.model_copy(update={"fingerprint": fingerprint}), "other", {}) as run,
        ):
            raise TrainingError("stopped")
        with pytest.raises(UsageError, match=told):
            resume("digits", run.id)
        tracking.client().delete_run(run.id)
