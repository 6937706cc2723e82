"""Whether a disk has room for a copy of encoded splits, whose files may be on the storage path alone.

check_room(dataset, ("train", "val"), folder)
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path

from raycls import home
from raycls.data.away import Away, patiently
from raycls.data.packed import PackedDataset, is_shard, pushed
from raycls.errors import DataError


def check_room(dataset: PackedDataset, splits: Iterable[str], folder: Path) -> None:
    """Raise DataError if the disk of a folder is too small for the shards of these splits.

    Of a packed version nothing is checked: its arrays are checked when they are created. Raises StorageError if the
    storage path has shards and does not answer.
    """
    if dataset.info.store != "encoded":
        return
    size, free = sum(_size(dataset, split) for split in splits), shutil.disk_usage(folder).free
    if size > free:
        raise DataError(
            f"a copy of {dataset.info.reference} takes {size / 1e6:,.0f} MB, but {home.home()} has only "
            f"{free / 1e6:,.0f} MB free: make room, or set RAYCLS_HOME to a larger disk"
        )


def _size(dataset: PackedDataset, split: str) -> int:
    """Return the bytes of the shards of a split."""
    files = [
        dataset.path / file for file in dataset.info.sha256 if is_shard(file) and file.startswith(f"{split}/")
    ]
    size = sum(file.stat().st_size for file in files if file.exists())
    absent = {file.name for file in files if not file.exists()}
    if absent and dataset.storage:
        away = Away(pushed(dataset.storage, dataset.info, split))
        size += sum(found for name, found in patiently(away.sizes, away.folder).items() if name in absent)
    return size
