"""The places where raycls keeps files: `$RAYCLS_HOME` (default ~/.raycls) and `$RAYCLS_STORAGE`.

    home.datasets() / "cifar10"

Every room asks this module for a place, so one environment variable moves all of them. It reads the environment at each
call. It does not know what the files contain.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raycls.errors import ClusterError

_VARIABLES = ("RAYCLS_HOME", "RAYCLS_STORAGE", "RAYCLS_STUDIES", "MLFLOW_TRACKING_URI")


def home() -> Path:
    """Return the directory for everything that raycls keeps on this machine."""
    return Path(os.environ.get("RAYCLS_HOME") or "~/.raycls").expanduser().absolute()


def datasets() -> Path:
    """Return the directory of the prepared datasets."""
    return home() / "datasets"


def storage() -> str:
    """Return Ray's storage path: the shared one, or `runs` under the home."""
    return shared_storage() or str(home() / "runs")


def shared_storage() -> str | None:
    """Return `$RAYCLS_STORAGE`, any pyarrow URI that all nodes of a cluster can read and write, or None."""
    return os.environ.get("RAYCLS_STORAGE")


def tracking_uri() -> str:
    """Return the address of MLflow's tracking and registry: `$MLFLOW_TRACKING_URI`, or a SQLite file under the home."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"


def study_storage() -> str:
    """Return the database of Optuna's studies: `$RAYCLS_STUDIES`, any SQLAlchemy URL, or a SQLite file in the home."""
    return os.environ.get("RAYCLS_STUDIES") or f"sqlite:///{home() / 'studies.db'}"


@contextmanager
def lock(name: str, busy: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock `name`, which only one process of this machine can hold.

    If another process holds it, wait for that process if `wait` is true, else raise ClusterError with the message
    `busy`.
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
    """Use `folder` as the home inside the `with` block, for this process and the processes that it starts.

    The registry and the studies are under `folder` too, whatever the environment says.
    """
    before = {name: os.environ.pop(name, None) for name in _VARIABLES}
    os.environ["RAYCLS_HOME"] = str(folder)
    try:
        yield
    finally:
        os.environ.update({name: value for name, value in before.items() if value is not None})
        if before["RAYCLS_HOME"] is None:
            del os.environ["RAYCLS_HOME"]
