"""Copies of dataset versions on the storage path, from which the nodes of a cluster pull them.

    push(open_dataset("pets@2"))    # to $RAYCLS_STORAGE/datasets/pets/2
    pull("pets", 2)                 # to this machine's datasets, complete or not at all

A version's description, `dataset.json`, is written last. `open_dataset` pulls a version that it does not find. The
shards of an encoded version stay where they are, and are read from there, until somebody asks for them.
RAYCLS_STORAGE must be a path that pyarrow supports. This module knows files only.
"""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

from raycls import home, progress
from raycls.data import packed
from raycls.data.away import asked, patiently
from raycls.data.files import copy_files, join, shown, sync
from raycls.data.layout import location, versions_of
from raycls.data.packed import INFO, DatasetInfo, PackedDataset
from raycls.data.writer import reserved, write_version
from raycls.errors import BusyError, DataError, UsageError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

WAIT_S = 0.5  # between two tries, while another process of this machine pulls the same dataset


def push(dataset: PackedDataset) -> str:
    """Copy a version to the storage path and return its folder there. A version that is there already is not copied.

    Raises UsageError if RAYCLS_STORAGE is not set or has other data under the same reference, and DataError if the
    files cannot be written.
    """
    storage = home.shared_storage()
    if not storage:
        raise UsageError(
            "RAYCLS_STORAGE is not set: set it to a path that all nodes share, like s3://bucket/raycls"
        )
    info = dataset.info
    try:
        filesystem, root = _datasets(storage)
        there = f"{root}/{info.name}/{info.version}"
        former = _info(filesystem, there)
        if former and former.fingerprint != info.fingerprint:
            raise UsageError(
                f"{shown(storage)} has another {info.reference} (fingerprint {former.fingerprint[:12]}, here "
                f"{info.fingerprint[:12]}): prepare under another name with --name, or remove the folder there"
            )
        if former is None:
            if dataset.absent():
                raise DataError(
                    f"{info.reference} is not whole on this machine: set RAYCLS_STORAGE to where it was pulled from, "
                    f"and fetch its shards with `raycls data pull {info.reference}` first"
                )
            with progress.bar(f"pushing {info.reference} to {shown(storage)}"):
                dataset.verify()  # what is damaged here would only be noticed where it is pulled
                filesystem.create_dir(there, recursive=True)
                for entry in sorted(dataset.path.iterdir()):
                    if entry.is_dir() and entry.name in info.counts:
                        filesystem.create_dir(f"{there}/{entry.name}")
                        copy_files(str(entry), f"{there}/{entry.name}", to=filesystem)
                    elif entry.name in (packed.ROWS, packed.LEFT_OUT):
                        copy_files(str(entry), f"{there}/{entry.name}", to=filesystem)
            with filesystem.open_output_stream(f"{there}/{INFO}") as file:
                file.write(info.model_dump_json(indent=2).encode())
    except OSError as error:
        raise DataError(f"cannot push {info.reference} to {shown(storage)}: {shown(str(error))}") from None
    return f"{shown(storage).rstrip('/')}/datasets/{info.name}/{info.version}"


def replace(dataset: PackedDataset) -> None:
    """Push the version where the storage path has a former state of it, or an unfinished copy. Raises DataError."""
    storage = home.shared_storage()
    info = dataset.info
    if not storage:
        return
    from pyarrow.fs import FileType

    try:
        filesystem, root = _datasets(storage)
        there = f"{root}/{info.name}/{info.version}"
        found = _info(filesystem, there)
        if filesystem.get_file_info(there).type == FileType.NotFound or (
            found and found.fingerprint not in info.former_fingerprints
        ):
            return
        if found:
            filesystem.delete_file(f"{there}/{INFO}")  # first, so that nobody pulls half of it
        filesystem.delete_dir(there)
    except OSError as error:
        raise DataError(f"cannot replace {info.reference} on {shown(storage)}: {shown(str(error))}") from None
    push(dataset)


def pull(name: str, version: int | None = None, *, shards: bool = False) -> bool:
    """Copy a pushed version, or the newest one, to this machine. Return whether it is on this machine now.

    shards: also those of an encoded version. Raises DataError if the storage path cannot be read, or if the copied
    files differ from the pushed ones.
    """
    from raycls.data.forget import without_forgotten  # which imports this module

    storage = home.shared_storage()
    if not storage:
        return False
    while True:
        try:
            filesystem, root = _datasets(storage)
            if version is None:
                version = _newest(filesystem, f"{root}/{name}")
            info = version is not None and _info(filesystem, f"{root}/{name}/{version}")
            if not info:
                return False
            with reserved(name):
                if info.version in versions_of(name):
                    found = packed.read(location(name, info.version), info.reference)
                    here = found.info
                    if info.fingerprint not in (here.fingerprint, *here.former_fingerprints):
                        raise DataError(
                            f"this machine has another {info.reference} than {shown(storage)}: remove it with `raycls "
                            f"data remove {info.reference} --force`, and pull again"
                        )
                else:
                    with (
                        write_version(name, info.version) as writer,
                        progress.bar(f"pulling {info.reference} from {shown(storage)}"),
                    ):
                        _copy(filesystem, f"{root}/{name}/{version}", writer.path, info, shown(storage))
                        found = dataclasses.replace(writer.place(info, shards=False), storage=storage)
                    found = without_forgotten(found)
                if shards and found.info.fingerprint == info.fingerprint:
                    _fetch(filesystem, f"{root}/{name}/{version}", found)
            return True
        except BusyError:
            time.sleep(WAIT_S)
        except OSError as error:
            raise DataError(f"cannot pull {name} from {shown(storage)}: {shown(str(error))}") from None


def compare(dataset: PackedDataset) -> None:
    """Check that the storage path has this very version, if it is to deliver shards that this machine lacks.

    Raises DataError if it has another one or none, and StorageError if it does not answer after some tries.
    """
    info, storage = dataset.info, dataset.storage
    if not storage or not dataset.absent():
        return
    there = join(storage, f"datasets/{info.name}/{info.version}")

    def description() -> DatasetInfo | None:
        filesystem, root = _datasets(storage)
        return _info(filesystem, f"{root}/{info.name}/{info.version}")

    found = patiently(lambda: asked(description), there)
    if found is None:
        raise DataError(
            f"{shown(there)} does not have {info.reference}, whose shards this machine lacks: look at RAYCLS_STORAGE, "
            f"or push {info.reference} from where it is whole"
        )
    if found.fingerprint != info.fingerprint:
        raise DataError(
            f"{shown(storage)} has another {info.reference} (fingerprint {found.fingerprint[:12]}, here "
            f"{info.fingerprint[:12]}), as after `raycls data forget`: renew it with `raycls data remove "
            f"{info.reference} --force` and `raycls data pull {info.reference}`"
        )


def _copy(filesystem: FileSystem, there: str, to: Path, info: DatasetInfo, storage: str) -> None:
    """Copy a version without its shards, and verify it. storage: for messages."""
    from pyarrow.fs import FileType

    # Not all that lies there: the names of the files are checked, and an old version has tables that it does not list.
    tables = filesystem.get_file_info([f"{there}/{table}" for table in (packed.ROWS, packed.LEFT_OUT)])
    files = [
        table.base_name for table in tables if table.type == FileType.File or table.base_name in info.tables
    ]
    for file in (*files, *(file for file in info.sha256 if not packed.is_shard(file))):
        (to / file).parent.mkdir(exist_ok=True)
        copy_files(f"{there}/{file}", str(to / file), of=filesystem)
    try:
        PackedDataset(to, info).verify(shards=False)
    except DataError as error:
        raise DataError(
            f"the copy of {info.reference} on {storage} is damaged: remove {there} and push it again ({error})"
        ) from None


def _fetch(filesystem: FileSystem, there: str, dataset: PackedDataset) -> None:
    """Copy the shards that this machine lacks. Each is whole or absent."""
    absent = dataset.absent()
    if not absent:
        return
    with progress.bar(f"pulling {len(absent):,} shards of {dataset.info.reference}", len(absent)) as bar:
        for file in absent:
            aside = (dataset.path / file).with_suffix(".tmp")
            copy_files(f"{there}/{file}", str(aside), of=filesystem)
            if packed.sha256_file(aside) != dataset.info.sha256[file]:
                aside.unlink()
                raise DataError(
                    f"{there}/{file} on the storage path is damaged: push {dataset.info.reference} again from where it "
                    "is whole"
                )
            sync(aside)
            aside.rename(dataset.path / file)
            bar.advance()


def _datasets(storage: str) -> tuple[FileSystem, str]:
    from pyarrow.fs import FileSystem

    try:
        filesystem, root = FileSystem.from_uri(storage)
    except ValueError as error:
        raise DataError(
            f"RAYCLS_STORAGE={shown(storage)} is not a storage path: {shown(str(error))}. Set it to a path like "
            "s3://bucket/raycls"
        ) from None
    return filesystem, f"{root.rstrip('/')}/datasets"


def _newest(filesystem: FileSystem, folder: str) -> int | None:
    from pyarrow.fs import FileSelector

    entries = filesystem.get_file_info(FileSelector(folder, allow_not_found=True))
    versions = sorted((int(entry.base_name) for entry in entries if entry.base_name.isdigit()), reverse=True)
    # A folder without a description is still being pushed.
    return next((version for version in versions if _info(filesystem, f"{folder}/{version}")), None)


def _info(filesystem: FileSystem, folder: str) -> DatasetInfo | None:
    """Return the description of a pushed version, or None."""
    try:
        with filesystem.open_input_file(f"{folder}/{INFO}") as file:
            info = DatasetInfo.model_validate_json(file.read())
        if f"{info.name}/{info.version}" != "/".join(folder.split("/")[-2:]):
            raise ValueError(f"it is of {info.reference}")
        return info
    except FileNotFoundError:
        return None
    except ValueError as error:  # pydantic's ValidationError is one
        raise DataError(
            f"{folder}/{INFO} on the storage path is not a description: {packed.fault(error)}. Remove the folder, and "
            "push the dataset again"
        ) from None
