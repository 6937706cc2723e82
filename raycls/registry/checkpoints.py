"""The checkpoint of a version as a directory on this machine, its SHA-256 verified.

directory = checkpoint(registry.resolve("pets/7"))
"""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from raycls import home, tracking
from raycls.engines import openvino_graph
from raycls.engines.openvino_graph import INT8_FOLDER
from raycls.errors import CheckpointError, RegistryError
from raycls.models.card import sha256
from raycls.registry.model_version import INT8, ModelVersion


def checkpoint(version: ModelVersion) -> Path:
    """Return the checkpoint as a local directory: MLflow's own if it is a local path, else a copy under the home.

    Raises RegistryError if the checkpoint is gone or its SHA-256 has changed. A copy that was damaged is made again. A
    local path does not need MLflow, so a serving replica starts faster.
    """
    parsed = urlparse(version.uri)
    if parsed.scheme in ("", "file"):
        directory = Path(url2pathname(parsed.path))
        if not directory.is_dir():
            raise RegistryError(f"the checkpoint of {version.reference} is gone: {directory}")
    else:
        directory = home.home() / "cache" / version.sha256
        if not _holds(directory, version):
            shutil.rmtree(directory, ignore_errors=True)  # a copy that was damaged here
            _download(version, directory)
            if not _holds(directory, version):
                raise RegistryError(f"{directory} is damaged and cannot be replaced: remove it")
        if INT8 in version.tags and openvino_graph.digest(directory / INT8_FOLDER) != version.tags[INT8]:
            _download_int8(version, directory)
        return directory
    if sha256(directory) != version.sha256:
        raise _changed(version, directory)
    return directory


def _holds(directory: Path, version: ModelVersion) -> bool:
    try:
        return sha256(directory) == version.sha256
    except CheckpointError:  # it is not there, or not complete
        return False


def _changed(version: ModelVersion, where: object) -> RegistryError:
    return RegistryError(
        f"the checkpoint of {version.reference} was changed after it was registered: {where}; "
        "train it again, or promote another version"
    )


def _download(version: ModelVersion, directory: Path) -> None:
    """Copy a checkpoint to `directory`, which gets nothing else than what was registered."""
    import tempfile

    import mlflow.artifacts

    tracking.client()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as folder:
        copied = Path(mlflow.artifacts.download_artifacts(artifact_uri=version.uri, dst_path=folder))
        if not _holds(copied, version):
            raise _changed(version, version.uri)
        with suppress(OSError):  # another process was first
            copied.rename(directory)


def _download_int8(version: ModelVersion, directory: Path) -> None:
    """Copy the int8 graph, which was made after the checkpoint was registered, into the copy of the checkpoint."""
    import tempfile

    import mlflow.artifacts

    tracking.client()
    with tempfile.TemporaryDirectory(dir=directory.parent) as folder:
        copied = Path(
            mlflow.artifacts.download_artifacts(artifact_uri=f"{version.uri}/{INT8_FOLDER}", dst_path=folder)
        )
        if openvino_graph.digest(copied) != version.tags[INT8]:
            raise _changed(version, f"{version.uri}/{INT8_FOLDER}")
        shutil.rmtree(directory / INT8_FOLDER, ignore_errors=True)
        with suppress(OSError):  # another process was first
            copied.rename(directory / INT8_FOLDER)
