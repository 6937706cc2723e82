"""Copies of prepared datasets on the storage path, from which the nodes of a cluster pull them.

    push(open_dataset("pets"))      # to $RAYCLS_STORAGE/datasets
    pull("pets")                    # to this machine's datasets, complete or not at all

    <storage>/datasets/pets.json               the manifest, written last
    <storage>/datasets/pets-3f2a91c07b44/      its arrays; the name ends with the start of the fingerprint

`open_dataset` pulls a dataset that it does not find. RAYCLS_STORAGE must be a path that pyarrow supports. This module
knows files only; raycls/data/writer.py publishes the pulled dataset.
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

WAIT_S = 0.5  # between two tries, while another process of this machine pulls the same dataset


def push(dataset: PackedDataset) -> str:
    """Copy the dataset to the storage path and return the folder. It replaces an earlier dataset of the same name.

    Raises UsageError if RAYCLS_STORAGE is not set, DataError if the files cannot be written.
    """
    from pyarrow.fs import FileType, copy_files

    storage = home.shared_storage()
    if not storage:
        raise UsageError(
            "RAYCLS_STORAGE is not set: set it to a path that all nodes share, like s3://bucket/raycls"
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
    """Copy a pushed dataset to this machine. Return whether the dataset is on this machine now.

    Raises DataError if the storage path cannot be read, or if the copied files differ from the pushed ones.
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
        raise DataError(
            f"RAYCLS_STORAGE={storage} is not a storage path: {error}. Set it to a path like s3://bucket/raycls"
        ) from None
    return filesystem, f"{root.rstrip('/')}/datasets"


def _arrays(root: str, manifest: Manifest) -> str:
    return f"{root}/{manifest.name}-{manifest.fingerprint[:12]}"


def _manifest(filesystem: FileSystem, root: str, name: str) -> Manifest | None:
    """Return the manifest of the dataset that was pushed last under the name, or None."""
    try:
        with filesystem.open_input_file(f"{root}/{name}.json") as file:
            return Manifest.model_validate_json(file.read())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise DataError(
            f"{name}.json on the storage path is not a manifest: {str(error).splitlines()[0]}. Push {name} again"
        ) from None
