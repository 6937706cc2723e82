"""Errors that end a run: what they leave behind, and how they are told."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from pyarrow.fs import LocalFileSystem

from raycls.data.packed import PackedDataset
from raycls.errors import BrokenOffError, DataError
from raycls.models import checkpoint
from raycls.training.failures import check_unchanged, saving


def test_what_a_full_disk_cut_short_is_removed(tmp_path: Path) -> None:
    storage = SimpleNamespace(storage_filesystem=LocalFileSystem(), experiment_fs_path=str(tmp_path))
    with (
        pytest.raises(
            BrokenOffError, match=f"epoch-00002 cannot be written under {tmp_path}: .*No space left"
        ),
        saving(storage, "epoch-00002"),
    ):
        (tmp_path / "epoch-00002").mkdir()
        (tmp_path / "epoch-00002" / checkpoint.WEIGHTS).write_bytes(b"half")
        with Path("/dev/full").open("wb", buffering=0) as file:  # the kernel's own disk that is always full
            file.write(b"the other half")
    assert list(tmp_path.iterdir()) == []


def test_a_dataset_that_changes_under_a_run_ends_it(digits: PackedDataset) -> None:
    check_unchanged(digits)
    other = digits.manifest.model_copy(update={"fingerprint": "0" * 64})
    with pytest.raises(DataError, match="changed while the run went on"):
        check_unchanged(type(digits)(digits.path, other))
