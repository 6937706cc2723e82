"""The dataset versions on this machine: find, open, list and remove them.

    open_dataset("pets")       # the newest version
    open_dataset("pets@1")

    $RAYCLS_HOME/datasets/pets/1/, $RAYCLS_HOME/datasets/pets/2/, …

A dataset that was made before there were versions lies in `pets/` itself, and is version 1.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from raycls import home
from raycls.data import sharing
from raycls.data.layout import location, names, parse, removed_rows, removed_rows_file, versions_of
from raycls.data.manifest import write_table
from raycls.data.packed import FORMER_INFO, INFO, ROWS, DatasetInfo, PackedDataset, read
from raycls.data.writer import reserved
from raycls.errors import DataError, UnknownDatasetError, UsageError
from raycls.progress import say


def open_dataset(reference: str) -> PackedDataset:
    """Return the dataset version NAME@VERSION, or the newest version of NAME.

    If it is not on this machine, it is pulled from the storage path. All of it is checked except the pixels. Raises
    UnknownDatasetError, which lists what there is, or DataError for damaged files.
    """
    name, version = parse(reference)
    found = versions_of(name)
    if (not found if version is None else version not in found) and sharing.pull(name, version):
        found = versions_of(name)
    if not found:
        raise UnknownDatasetError(
            f"no dataset {name!r}; prepared so far: {', '.join(names()) or 'none'}. Make one with: "
            "raycls data prepare cifar10 (or digits, or the path of a folder of class folders)"
        )
    if version is not None and version not in found:
        raise UnknownDatasetError(
            f"no dataset {reference}; the versions of {name} are: {', '.join(f'{name}@{v}' for v in found)}"
        )
    chosen = found[-1] if version is None else version
    return read(location(name, chosen), f"{name}@{chosen}")


def open_by_fingerprint(name: str, fingerprint: str, version: int | None = None) -> PackedDataset:
    """Return the version of a dataset that has this fingerprint, or had it before an image was forgotten.

    Models, runs and studies record all three. version is looked at first, and pulled if it is not on this machine; then
    the others, the newest first. Raises UnknownDatasetError if no version has the fingerprint.
    """
    if version is not None and version not in versions_of(name):
        sharing.pull(name, version)
    if not versions_of(name):
        open_dataset(name)  # pulls the newest, or says what there is
    for each in sorted(versions_of(name), key=lambda number: (number == version, number), reverse=True):
        try:
            dataset = open_dataset(f"{name}@{each}")
        except DataError as error:
            say(str(error))
            continue
        if fingerprint in (dataset.info.fingerprint, *dataset.info.former_fingerprints):
            return dataset
    raise UnknownDatasetError(
        f"no version of dataset {name} on this machine has the fingerprint {fingerprint[:12]}: copy that version here "
        "with `raycls data push` and `raycls data pull`"
    )


def on_this_node(dataset: PackedDataset) -> PackedDataset:
    """Return the same dataset version on this node of the cluster. Pull it from the storage path if the node lacks it.

    Raises DataError if it is not on the storage path either, or if this node, or the storage path that is to deliver
    the shards, has other data under the same reference. Raises StorageError if that does not answer.
    """
    reference = dataset.info.reference
    try:
        # The node's own home may be another one than the driver's, as where a test or a job set it later.
        is_here = any((dataset.path / file).exists() for file in (INFO, FORMER_INFO))
        found = read(dataset.path, reference, dataset.storage) if is_here else open_dataset(reference)
    except UnknownDatasetError:
        raise DataError(
            f"node {socket.gethostname()} has no dataset {reference}: set RAYCLS_STORAGE to a path that all nodes "
            f"share, and run `raycls data push {reference}` on the node that has it"
        ) from None
    if found.info.fingerprint in dataset.info.former_fingerprints:
        found = _renewed(found)
    if found.info.fingerprint != dataset.info.fingerprint:
        raise DataError(
            f"node {socket.gethostname()} has another dataset {reference} (fingerprint {found.info.fingerprint[:12]}, "
            f"not {dataset.info.fingerprint[:12]}): remove it there with `raycls data remove {reference} --force`"
        )
    sharing.compare(found)
    return found


def _renewed(stale: PackedDataset) -> PackedDataset:
    """Return the version that the storage path has in place of one of which a picture was forgotten since."""
    reference = stale.info.reference
    is_own = stale.path == location(stale.info.name, stale.info.version)
    if not is_own or not home.shared_storage():
        return stale
    with home.lock("renew.lock", "", wait=True):  # every worker of the node comes here
        found = read(stale.path, reference)
        if found.info.fingerprint == stale.info.fingerprint:
            say(
                f"{reference} on node {socket.gethostname()} still has pictures that were forgotten: it is renewed"
            )
            remove(reference)
            found = open_dataset(reference)
    return found


def list_datasets() -> list[DatasetInfo]:
    """Return all versions on this machine, by name and version. Report a damaged one on stderr and omit it."""
    found = []
    for name in names():
        for version in versions_of(name):
            try:
                found.append(read(location(name, version), f"{name}@{version}").info)
            except DataError as error:
                say(str(error))
    return found


def remove(reference: str) -> None:
    """Delete one version from this machine. Raises UnknownDatasetError if it is not there.

    Its rows stay as long as the dataset has another version, because they say in which split an image was.
    """
    name, version = parse(reference)
    if version is None:
        raise UsageError(f"say which version to remove, like {name}@1")
    if version not in versions_of(name):
        raise UnknownDatasetError(f"no dataset {reference} on this machine")
    with reserved(name):
        path = location(name, version)
        if versions_of(name) == [version]:
            for rows in removed_rows(name).values():
                rows.unlink()
        else:
            _keep_rows(path / ROWS, removed_rows_file(name, version))
        if path == home.datasets() / name:  # of before there were versions: later ones lie in the same folder
            for entry in path.iterdir():
                if not entry.name.isdigit() and not entry.name.startswith("."):
                    shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
        else:
            aside = path.with_name(f".{version}.removed")
            path.rename(aside)
            shutil.rmtree(aside)


def _keep_rows(rows: Path, target: Path) -> None:
    """Copy the rows of a version that is removed, unless it has none or they are damaged."""
    with contextlib.suppress(pa.ArrowInvalid, OSError):
        write_table(pq.read_table(rows), target)
