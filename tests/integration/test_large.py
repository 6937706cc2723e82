"""An encoded dataset on real Ray: trained by two workers, killed within an epoch, tuned, and checked."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from raycls import registry
from raycls.config import Config, override
from raycls.data import shards
from raycls.data.packed import PackedDataset
from raycls.data.prepare import prepare
from raycls.engines.predictor import Predictor
from raycls.errors import TrainingError
from raycls.models.card import WEIGHTS
from raycls.tracking import resumable
from raycls.tracking.resumable import TrainingSpec
from raycls.training import loop, sampling, within
from raycls.training.checkpoints import CheckpointStore
from raycls.training.evaluation import evaluate
from raycls.training.folds import train_folds
from raycls.training.presets import preset
from raycls.training.trainer import resume, train
from raycls.tuning.plan import plan
from raycls.tuning.study import tune
from tests.datasets import encoded_copy

pytestmark = pytest.mark.usefixtures("home", "ray_session")


@pytest.fixture
def digits(home: Path) -> PackedDataset:
    return prepare("digits")


@pytest.fixture
def dataset(digits: PackedDataset, monkeypatch: pytest.MonkeyPatch) -> PackedDataset:
    """`digits` as shards of several blocks."""
    monkeypatch.setattr(shards, "BLOCK_BYTES", 8_000)
    monkeypatch.setattr(shards, "SHARD_BYTES", 50_000)
    return encoded_copy(digits, "shards")


@pytest.fixture
def config(dataset: PackedDataset) -> Config:
    return override(preset("smoke", dataset.info), ["epochs=5"])


def test_two_workers_learn_from_shards_as_from_arrays(
    dataset: PackedDataset, digits: PackedDataset, config: Config
) -> None:
    found = train("shards", config, workers=2)
    packed = train("digits", config, workers=2, register=False)
    assert found.metrics["test_accuracy"] > 0.8
    assert found.metrics["test_accuracy"] == pytest.approx(packed.metrics["test_accuracy"], abs=0.05)
    assert found.version is not None
    predictor = Predictor.load(registry.checkpoint(found.version))
    assert evaluate(predictor, dataset, "test").accuracy == evaluate(predictor, digits, "test").accuracy


@pytest.mark.long
def test_a_study_trains_on_shards(dataset: PackedDataset, config: Config) -> None:
    outcome = tune(plan("shards", config, trials=2, max_epochs=2, seed=1))
    assert [trial.epochs for trial in outcome.study.trials] == [2, 2]
    assert outcome.training.metrics["test_accuracy"] > 0.8


@pytest.mark.long
def test_folds_are_trained_on_shards(dataset: PackedDataset, config: Config) -> None:
    result = train_folds("shards", config, 2)
    assert result.metrics["test_accuracy"] > 0.8


class Killed(Exception):
    pass


def test_a_run_goes_on_within_its_epoch(
    dataset: PackedDataset, storage: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state is of the plain loop, and Ray's worker ends where that loop ends."""
    config = override(
        preset("smoke", dataset.info), ["epochs=2", "batch_size=16", "dropout=0.1", "precision=fp32"]
    )
    store = CheckpointStore(str(storage), "broken-off")
    store.prepare()

    def die(done: int, total: int) -> None:
        if done == 50:
            raise Killed

    threads = torch.get_num_threads()
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))  # as the worker has, by tests/conftest.py
    with monkeypatch.context() as patch:
        patch.setattr(sampling, "PART_PIXELS", 20 * 16 * 8 * 8)
        patch.setattr(within, "KEEP_S", 0.0)
        with pytest.raises(Killed):
            loop.fit(
                config,
                dataset,
                on_epoch=lambda metrics, snapshot: None,
                on_step=die,
                on_part=within.Keeper(store),
            )
    kept = within.newest(store)
    assert kept is not None
    assert (kept.epoch, kept.step) == (0, 40)
    best, expected = -1.0, tmp_path / "expected"

    def keep(metrics: dict[str, float], snapshot: loop.Snapshot) -> None:
        nonlocal best
        if metrics["val_accuracy"] >= best:
            best = metrics["val_accuracy"]
            snapshot.save(expected)

    loop.fit(config, dataset, on_epoch=keep, resume=Path(kept.path))
    torch.set_num_threads(threads)

    spec = TrainingSpec(
        dataset="shards",
        fingerprint=dataset.info.fingerprint,
        config=config,
        workers=1,
        storage=str(storage),
        model="shards",
        lineage={},
    )
    with pytest.raises(TrainingError), resumable.begin(spec, "broken-off", {}) as run:
        raise TrainingError("stopped")
    result = resume("shards", run.id)
    assert result.metrics["epoch"] == 2 or result.metrics["val_accuracy"] == best
    assert result.version is not None
    weights, plain = (
        load_file(folder / WEIGHTS) for folder in (registry.checkpoint(result.version), expected)
    )
    assert all(torch.equal(weights[name], plain[name]) for name in plain)
    assert within.newest(store) is None, "the state of an epoch that has ended is deleted"
