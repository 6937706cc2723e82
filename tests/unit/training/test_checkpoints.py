"""The checkpoints of a run, of which some were cut short."""

from __future__ import annotations

from pathlib import Path

import pytest
from pyarrow.fs import LocalFileSystem

from raycls.config import override
from raycls.data.packed import PackedDataset
from raycls.errors import StorageError
from raycls.models.card import CARD, WEIGHTS
from raycls.training import loop, seal
from raycls.training.checkpoints import CheckpointStore, epoch_directory, saving
from raycls.training.presets import preset


def test_only_whole_checkpoints_count(digits: PackedDataset, tmp_path: Path) -> None:
    settings = ["epochs=4", "train_fraction=0.1", "batch_size=16", "precision=fp32"]
    config = override(preset("smoke", digits.info), settings)
    store = CheckpointStore(str(tmp_path), "run")
    store.prepare()
    assert store.last() is None
    assert store.history() == []

    def keep(metrics: dict[str, float], snapshot: loop.Snapshot) -> None:
        epoch = int(metrics["epoch"])
        attempt = Path(store.path) / f"attempt-{1 + epoch // 3}"
        snapshot.save(attempt / epoch_directory(epoch))

    loop.fit(config, digits, on_epoch=keep)
    assert store.next_attempt() == "run/attempt-3"
    whole = store.checkpoints()
    assert [saved.epoch for saved in whole] == [1, 2, 3, 4]
    for name in (WEIGHTS, CARD, seal.STATE, seal.SEAL):
        path = Path(whole[-1].path) / name
        data = path.read_bytes()
        for length in (0, 1, 100, len(data) // 2, len(data) - 10):
            path.write_bytes(data[:length])
            last = store.last()
            assert last is not None
            assert last.epoch == 3, (name, length)
        path.write_bytes(data)
    for saved in whole:  # as an earlier raycls wrote them
        (Path(saved.path) / seal.SEAL).unlink()
    assert store.checkpoints() == whole
    (Path(whole[-1].path).parent / epoch_directory(9)).write_text("no directory")
    assert store.checkpoints() == whole
    (Path(whole[-1].path).parent / epoch_directory(9)).unlink()
    (Path(whole[-1].path) / CARD).unlink()
    lowest = store.best("val_loss")
    assert lowest is not None
    assert lowest.metrics["val_loss"] == min(saved.metrics["val_loss"] for saved in store.checkpoints())
    best = store.best("val_accuracy")
    store.tidy("val_accuracy")
    assert best == store.best("val_accuracy")
    assert {saved.epoch for saved in store.checkpoints()} == {3, best.epoch if best else 0}
    assert len(list(tmp_path.glob("run/attempt-*/*"))) <= 2
    # The epochs between, whose checkpoints are gone, can still be drawn by a driver that never heard of them.
    assert [metrics["epoch"] for metrics in store.history()] == [1, 2, 3]


def test_what_a_full_disk_cut_short_is_removed(tmp_path: Path) -> None:
    with (
        pytest.raises(StorageError, match=f"epoch-00002 cannot be written under {tmp_path} .*No space left"),
        saving(LocalFileSystem(), f"{tmp_path}/epoch-00002"),
    ):
        (tmp_path / "epoch-00002").mkdir()
        (tmp_path / "epoch-00002" / WEIGHTS).write_bytes(b"half")
        with Path("/dev/full").open("wb", buffering=0) as file:  # the kernel's own disk that is always full
            file.write(b"the other half")
    assert list(tmp_path.iterdir()) == []


def test_what_a_run_starts_from_stays_until_the_run_goes(directory: Path, tmp_path: Path) -> None:
    store = CheckpointStore(str(tmp_path), "run")
    store.prepare()
    assert store.start() is None
    store.keep_start(directory)
    store.tidy("val_accuracy")
    assert store.checkpoints() == []
    start = store.start()
    assert start is not None
    with start.directory() as kept:
        assert (kept / WEIGHTS).read_bytes() == (directory / WEIGHTS).read_bytes()
        assert (kept / CARD).read_bytes() == (directory / CARD).read_bytes()
    with pytest.raises(StorageError, match="start cannot be written"):
        CheckpointStore("/dev/null", "run").keep_start(directory)
