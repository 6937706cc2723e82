"""Prepared datasets on the storage path, from where the other nodes of a cluster take them.

    push(open_dataset("pets"))      # to $RAYCLS_STORAGE/datasets
    pull("pets")                    # from there to this machine's datasets, whole or not at all

    <storage>/datasets/pets.json               the manifest, written last
    <storage>/datasets/pets-3f2a91c07b44/      its arrays, by the fingerprint's beginning

`open_dataset` pulls what it does not find. Only where RAYCLS_STORAGE names a path: any that pyarrow understands.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from pydantic import ValidationError

from raycls import home, progress
from raycls.data.packed import SPLITS, Manifest, PackedDataset, location
from raycls.data.writer import write_dataset
from raycls.errors import BusyError, DataError, UsageError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

WAIT_S = 0.5  # for another process of this machine that is pulling the same dataset


def push(dataset: PackedDataset) -> str:
    """Copy the dataset to the storage path, in place of an earlier one of its name; where it then lies.

    Raises UsageError without RAYCLS_STORAGE, DataError where nothing can be written there.
    """
    from pyarrow.fs import FileType, copy_files

    storage = home.shared_storage()
    if not storage:
        raise UsageError(
            "set RAYCLS_STORAGE to the storage path that the nodes share, like s3://bucket/raycls"
        )
    manifest = dataset.manifest
    try:
        filesystem, root = _datasets(storage)
        former = _manifest(filesystem, root, manifest.name)
        arrays = _arrays(root, manifest)
        if former is None or former.fingerprint != manifest.fingerprint:
            with progress.bar(f"pushing {manifest.name} to {storage}"):
                for split in SPLITS:
                    filesystem.create_dir(f"{arrays}/{split}", recursive=True)
                    copy_files(
                        str(dataset.path / split), f"{arrays}/{split}", destination_filesystem=filesystem
                    )
            with filesystem.open_output_stream(f"{root}/{manifest.name}.json") as file:
                file.write(manifest.model_dump_json(indent=2).encode())
            if former and filesystem.get_file_info(_arrays(root, former)).type != FileType.NotFound:
                filesystem.delete_dir(_arrays(root, former))
    except OSError as error:
        raise DataError(f"cannot push {manifest.name} to {storage}: {error}") from None
    return f"{storage.rstrip('/')}/datasets"


def pull(name: str) -> bool:
    """Have the dataset on this machine, if it was pushed: whether it is here now.

    Raises DataError where the storage path cannot be read, or what comes from it is not what was pushed.
    """
    from pyarrow.fs import copy_files

    storage = home.shared_storage()
    if not storage:
        return False
    while True:
        try:
            filesystem, root = _datasets(storage)
            manifest = _manifest(filesystem, root, name)
            if manifest is None:
                return False
            with write_dataset(name) as writer:
                if not location(name).exists():
                    with progress.bar(f"pulling {name} from {storage}"):
                        copy_files(_arrays(root, manifest), str(writer.path), source_filesystem=filesystem)
                        PackedDataset(writer.path, manifest).verify()
                        writer.place(manifest)
            return True
        except BusyError:
            time.sleep(WAIT_S)
        except OSError as error:
            raise DataError(f"cannot pull {name} from {storage}: {error}") from None


def _datasets(storage: str) -> tuple[FileSystem, str]:
    from pyarrow.fs import FileSystem

    try:
        filesystem, root = FileSystem.from_uri(storage)
    except ValueError as error:
        raise DataError(f"RAYCLS_STORAGE={storage} is no storage path: {error}") from None
    return filesystem, f"{root.rstrip('/')}/datasets"


def _arrays(root: str, manifest: Manifest) -> str:
    return f"{root}/{manifest.name}-{manifest.fingerprint[:12]}"


def _manifest(filesystem: FileSystem, root: str, name: str) -> Manifest | None:
    """What was pushed last under the name."""
    try:
        with filesystem.open_input_file(f"{root}/{name}.json") as file:
            return Manifest.model_validate_json(file.read())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise DataError(
            f"{name}.json on the storage path is no manifest: {str(error).splitlines()[0]}"
        ) from None
