"""Where dataset versions lie: `$RAYCLS_HOME/datasets/pets/2/` is the version `pets@2`.

    location("pets", 2)      versions_of("pets")      parse("pets@2")

A dataset that was made before there were versions lies in `pets/` itself, and is version 1. This module reads names of
files and nothing else.
"""

from __future__ import annotations

from pathlib import Path

from raycls import home
from raycls.data.packed import FORMER_INFO, INFO, NAME
from raycls.errors import UsageError

DECODED = ".decoded-uploads"  # folder beside the versions: what an interrupted `add_pictures` has decoded


def names() -> list[str]:
    """Return the names of all datasets on this machine, sorted."""
    if not home.datasets().is_dir():
        return []
    return sorted(path.name for path in home.datasets().iterdir() if path.is_dir() and versions_of(path.name))


def versions_of(name: str) -> list[int]:
    """Return the versions of a dataset on this machine, in order."""
    folder = home.datasets() / name
    if not NAME.fullmatch(name) or not folder.is_dir():
        return []
    found = {int(path.parent.name) for path in folder.glob(f"*/{INFO}") if path.parent.name.isdigit()}
    return sorted(found | ({1} if (folder / FORMER_INFO).exists() else set()))


def location(name: str, version: int) -> Path:
    """Return the directory of a version, whether it exists or not."""
    folder = home.datasets() / name
    return folder if version == 1 and (folder / FORMER_INFO).exists() else folder / str(version)


def removed_rows(name: str) -> dict[int, Path]:
    """Return {version: file} of the rows of removed versions. They say in which split an image was."""
    files = (home.datasets() / name).glob(".rows-*.parquet")
    return {int(file.stem.removeprefix(".rows-")): file for file in files}


def removed_rows_file(name: str, version: int) -> Path:
    """Return the file that `removed_rows` finds, whether it exists or not."""
    return home.datasets() / name / f".rows-{version}.parquet"


def parse(reference: str) -> tuple[str, int | None]:
    """Return name and version of NAME or NAME@VERSION. Raises UsageError for anything else."""
    name, at, version = reference.partition("@")
    if at and not name:
        raise UsageError(f"{reference!r} names no dataset: `raycls data list` shows them")
    if at and not version.isdecimal():
        raise UsageError(
            f"{reference!r} is no dataset version: write {name}@1 for a version, or {name} for the newest"
        )
    return name, int(version) if at else None
