"""A run that ends within an epoch goes on there, and ends with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fsspec.implementations.local import LocalFileSystem
from pyarrow.fs import FSSpecHandler, PyFileSystem

from raycls.config import Config, override
from raycls.data import shards
from raycls.data.packed import PackedDataset
from raycls.errors import StorageError
from raycls.models.card import load_card
from raycls.training import encoded_split, sampling, within
from raycls.training.checkpoints import CheckpointStore
from raycls.training.loop import Training, fit, start
from raycls.training.presets import preset
from raycls.training.snapshot import Snapshot
from tests.datasets import encoded_copy
from tests.unit.training.test_data_parallel import work_together

STEPS = 5  # of a part
# Both of two workers train without a break, then again to the 13th step, and then on from the state of the 10th.
TOGETHER = """
import contextlib, sys
from pathlib import Path
from raycls.config import Config
from raycls.data.packed import read
from raycls.training import encoded_split, sampling, within
from raycls.training.checkpoints import CheckpointStore

class Killed(Exception):
    pass

def die(done, total):
    if done == 13:
        raise Killed

def work(rank, store, config, dataset, storage):
    shared = begin(rank, store)
    config, dataset = Config.model_validate_json(config), read(Path(dataset), "digits")
    sampling.PART_PIXELS, within.KEEP_S, encoded_split.WINDOW = STEPS * 50 * 8 * 8, 0.0, 2
    kept = CheckpointStore(storage, "run")
    keeper = within.Keeper(kept, writes=rank == 0)

    def fit(**more):
        return loop.fit(config, dataset, on_epoch=lambda metrics, snapshot: None, workers=Workers(rank, 2), **more)

    network = fit(on_part=lambda snapshot, begun: None)
    torch.save(network.state_dict(), f"{storage}/undisturbed.{rank}")
    with contextlib.suppress(Killed):
        fit(on_part=keeper, on_step=die)
    dist.barrier()
    found = within.newest(kept)
    network = fit(on_part=lambda snapshot, begun: None, resume=Path(found.path))
    torch.save([network.state_dict(), found.step], f"{storage}/resumed.{rank}")
    end(shared, rank)
""".replace("STEPS", str(STEPS))


class Killed(Exception):
    pass


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    found = CheckpointStore(str(tmp_path / "storage"), "run")
    found.prepare()
    return found


@pytest.fixture
def config(digits: PackedDataset, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setattr(sampling, "PART_PIXELS", STEPS * 50 * 8 * 8)
    monkeypatch.setattr(within, "KEEP_S", 0.0)
    settings = [
        "epochs=2",
        "precision=fp32",
        "batch_size=50",
        "cutout=2",
        "rotate=10",
        "dropout=0.1",
        "ema=0.9",
    ]
    return override(preset("smoke", digits.info, "cnn"), settings)


@pytest.fixture(params=["packed", "encoded"])
def dataset(
    request: pytest.FixtureRequest, digits: PackedDataset, home: Path, monkeypatch: pytest.MonkeyPatch
) -> PackedDataset:
    if request.param == "packed":
        return digits
    monkeypatch.setattr(shards, "BLOCK_BYTES", 8_000)
    monkeypatch.setattr(encoded_split, "WINDOW", 4)
    return encoded_copy(digits, "shards")


def _weights(training: Training) -> torch.Tensor:
    return torch.cat([tensor.flatten().float() for tensor in training.kept.state_dict().values()])


@pytest.mark.parametrize("ended", [7, 33])
def test_the_rest_of_the_epoch_is_the_same(
    dataset: PackedDataset, config: Config, store: CheckpointStore, ended: int, tmp_path: Path
) -> None:
    """Killed after a step of the first and of the second epoch."""
    undisturbed = start(config, dataset)
    assert isinstance(undisturbed, Training)
    undisturbed.on_part = lambda snapshot, begun: None
    expected = [metrics for metrics, _ in undisturbed.epochs()]
    assert ended < undisturbed.order.steps * 2

    def die(done: int, total: int) -> None:
        if done == ended:
            raise Killed

    folder = tmp_path / "epoch"
    done = 0

    def keep(metrics: dict[str, float], snapshot: Snapshot) -> None:
        nonlocal done
        done += 1
        snapshot.save(folder)

    with pytest.raises(Killed):
        fit(config, dataset, on_epoch=keep, on_step=die, on_part=within.Keeper(store))
    kept = within.newest(store)
    steps = undisturbed.order.steps
    assert kept is not None
    assert (kept.epoch, kept.step) == (ended // steps, (ended % steps) // STEPS * STEPS)
    with within.resumed(store, folder if done else None, done) as newest:
        assert newest == Path(kept.path)
        resumed = start(config, dataset, resume=newest)
    assert isinstance(resumed, Training)
    resumed.on_part = lambda snapshot, begun: None
    counted: list[int] = []
    found = [metrics for metrics, _ in resumed.epochs(lambda done, total: counted.append(done))]
    assert counted[0] == kept.epoch * steps + kept.step + 1
    assert torch.equal(_weights(resumed), _weights(undisturbed))
    for name in ("train_loss", "train_accuracy", "val_loss"):
        assert found[-1][name] == pytest.approx(expected[-1][name], rel=1e-6)
        assert found[0][name] == pytest.approx(expected[-len(found)][name], rel=1e-6)


def test_a_state_counts_while_no_later_epoch_has_a_checkpoint(
    digits: PackedDataset, config: Config, store: CheckpointStore, tmp_path: Path
) -> None:
    assert within.newest(store) is None
    with within.resumed(store, None, 0) as folder:
        assert folder is None
    training = start(config, digits)
    assert isinstance(training, Training)
    training.on_part = within.Keeper(store)
    next(training.epochs())
    kept = within.newest(store)
    assert kept is not None
    assert (kept.epoch, kept.step) == (0, (training.order.steps - 1) // STEPS * STEPS)
    assert len(list(Path(store.path, within.FOLDER).iterdir())) == 1, "an older state is deleted"
    with within.resumed(store, None, 0) as folder:
        assert folder == Path(kept.path)
    with within.resumed(store, tmp_path, 1) as folder:
        assert folder == tmp_path, "the checkpoint of the epoch is newer"
    (Path(kept.path) / "training_state.pt").write_bytes(b"")
    assert within.newest(store) is None, "a state that was cut short"
    within.drop(store)
    within.drop(store)
    assert not Path(store.path, within.FOLDER).exists()


def test_a_state_is_kept_where_a_former_one_cannot_be_deleted(
    digits: PackedDataset, config: Config, store: CheckpointStore
) -> None:
    class Stubborn(LocalFileSystem):
        cachable, broken = False, False

        def rm(self, *arguments: object, **more: object) -> None:
            raise OSError("no permission to delete")

        def find(self, *arguments: Any, **more: Any) -> Any:
            if self.broken:
                raise OSError("the bucket is away")
            return super().find(*arguments, **more)

    stubborn = Stubborn()
    store.filesystem = PyFileSystem(FSSpecHandler(stubborn))
    training = start(config, digits)
    assert isinstance(training, Training)
    training.on_part = within.Keeper(store)
    next(training.epochs())
    last = (training.order.steps - 1) // STEPS
    assert len(list(Path(store.path, within.FOLDER).iterdir())) == last > 1
    kept = within.newest(store)
    assert kept is not None
    assert kept.step == last * STEPS
    assert load_card(Path(kept.path)).metrics == {"epoch": 0, "step": last * STEPS}
    stubborn.broken = True
    with pytest.raises(StorageError, match="the bucket is away"):
        within.newest(store)


def test_only_one_worker_writes_and_not_too_often(
    digits: PackedDataset, config: Config, store: CheckpointStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def states(keeper: within.Keeper) -> bool:
        training = start(config, digits)
        assert isinstance(training, Training)
        training.on_part = keeper
        next(training.epochs())
        return within.newest(store) is not None

    assert not states(within.Keeper(store, writes=False))
    monkeypatch.setattr(within, "KEEP_S", 3600.0)
    assert not states(within.Keeper(store))


def test_two_workers_go_on_together(dataset: PackedDataset, config: Config, tmp_path: Path) -> None:
    training = override(config, ["epochs=1"]).model_dump_json()
    work_together(TOGETHER, tmp_path, training, str(dataset.path))
    for rank in range(2):
        expected = torch.load(tmp_path / f"undisturbed.{rank}")
        found, step = torch.load(tmp_path / f"resumed.{rank}")
        assert step == 10
        for name, value in expected.items():
            assert torch.allclose(found[name].float(), value.float(), rtol=1e-4, atol=1e-6), name
