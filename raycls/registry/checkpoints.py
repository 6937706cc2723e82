"""The checkpoint of a version as a directory on this machine, its SHA-256 verified.

directory = checkpoint(registry.resolve("pets/7"))
"""

from __future__ import annotations

import shutil
from pathlib import Path
from urllib.parse import urlparse
from urllib.request import url2pathname

from raycls import home, tracking
from raycls.errors import RegistryError
from raycls.models.card import sha256
from raycls.registry.versions import ModelVersion


def checkpoint(version: ModelVersion) -> Path:
    """Return the checkpoint as a local directory: MLflow's own if it is a local path, else a copy under the home.

    Raises RegistryError if the checkpoint is gone or its SHA-256 has changed. A local path does not need MLflow, so a
    serving replica starts faster.
    """
    parsed = urlparse(version.uri)
    if parsed.scheme in ("", "file"):
        directory = Path(url2pathname(parsed.path))
        if not directory.is_dir():
            raise RegistryError(f"the checkpoint of {version.reference} is gone: {directory}")
    else:
        directory = home.home() / "cache" / version.sha256
        if not directory.is_dir():
            _download(version.uri, directory)
    if sha256(directory) != version.sha256:
        raise RegistryError(
            f"the checkpoint of {version.reference} was changed after it was registered: {directory}; "
            "train it again, or promote another version"
        )
    return directory


def _download(uri: str, directory: Path) -> None:
    import tempfile

    import mlflow.artifacts

    tracking.client()
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=directory.parent) as folder:
        copied = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=folder)
        if not directory.exists():
            shutil.move(copied, directory)
