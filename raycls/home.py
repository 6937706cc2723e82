"""Where things live: `$RAYCLS_HOME` (default ~/.raycls) and `$RAYCLS_STORAGE`. Reads the environment."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raycls.errors import ClusterError

_VARIABLES = ("RAYCLS_HOME", "RAYCLS_STORAGE", "RAYCLS_STUDIES", "MLFLOW_TRACKING_URI")


def home() -> Path:
    """The root of all that raycls keeps on this machine."""
    return Path(os.environ.get("RAYCLS_HOME") or "~/.raycls").expanduser().absolute()


def datasets() -> Path:
    return home() / "datasets"


def storage() -> str:
    """The Ray storage path, any fsspec/pyarrow URI: what the nodes of a cluster share."""
    return shared_storage() or str(home() / "runs")


def shared_storage() -> str | None:
    """The storage path where it is said: then other machines may read and write there too."""
    return os.environ.get("RAYCLS_STORAGE")


def tracking_uri() -> str:
    """MLflow's tracking and registry server: `$MLFLOW_TRACKING_URI`, or a SQLite file under the home."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def study_storage() -> str:
    """Where Optuna keeps studies: `$RAYCLS_STUDIES`, any SQLAlchemy URL, or a SQLite file under the home."""
    return os.environ.get("RAYCLS_STUDIES") or f"sqlite:///{home() / 'studies.db'}"


@contextmanager
def lock(name: str, busy: str, *, wait: bool = False) -> Iterator[None]:
    """Be the only process of this machine that holds `name`.

    Where another does, wait for it, or raise ClusterError(busy).
    """
    home().mkdir(parents=True, exist_ok=True)
    with (home() / name).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ClusterError(busy) from None
        yield


@contextmanager
def elsewhere(folder: Path) -> Iterator[None]:
    """Have this process, and what it starts meanwhile, keep all under `folder`: registry and studies, too."""
    before = {name: os.environ.pop(name, None) for name in _VARIABLES}
    os.environ["RAYCLS_HOME"] = str(folder)
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in before.items() if value is not None})
        if before["RAYCLS_HOME"] is None:
            del os.environ["RAYCLS_HOME"]
