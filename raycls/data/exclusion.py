"""The images that a preparation leaves out because a person said so: excluded by a list, or forgotten for good.

    exclusions = exclusions_of("pets", Path("exclude.txt"))
    exclusions.kind_of(sha256, source)       # "excluded", "forgotten" or ""

A line of the list is a SHA-256 or a path in the source; what follows a # after a space is a comment. Without a list,
the version before says what is excluded.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from raycls import home
from raycls.data.layout import versions_of
from raycls.data.manifest import read_left_out
from raycls.data.versions import open_dataset
from raycls.errors import UsageError
from raycls.progress import say

DIGEST = re.compile(r"[0-9a-f]{64}")
COMMENT = re.compile(r"(^|\s)#.*")
FORGOTTEN, EXCLUDED = "forgotten", "excluded"  # kinds in left_out.parquet
FORGOTTEN_HERE = ".forgotten"  # file beside the datasets: a digest on each line


@dataclass(frozen=True)
class Exclusions:
    """Digests and paths of the images to leave out."""

    forgotten: frozenset[str]
    excluded: frozenset[str]

    def kind_of(self, sha256: str, source: str) -> str:
        """Return why the image is left out, or "" if it is not."""
        if sha256 in self.forgotten:
            return FORGOTTEN
        return EXCLUDED if sha256 in self.excluded or source in self.excluded else ""

    def tell_unmatched(self, sha256: Iterable[str], sources: Iterable[str]) -> None:
        """Say which entries of the list name no image of the source."""
        if missing := self.excluded - set(sha256) - set(sources):
            say(f"warning: {len(missing)} lines of the exclude list name no image here, like {min(missing)}")


def exclusions_of(name: str, exclude: Path | None) -> Exclusions:
    """Return what a preparation of this dataset leaves out. Raises UsageError if the list cannot be read."""
    forgotten = forgotten_here()
    excluded: set[str] = set()
    for version in versions_of(name):
        rows = read_left_out(open_dataset(f"{name}@{version}")).to_pylist()
        forgotten |= {row["sha256"] for row in rows if row["kind"] == FORGOTTEN}
        excluded = {row["sha256"] for row in rows if row["kind"] == EXCLUDED}
    if exclude is not None:
        excluded = _read(exclude)
    return Exclusions(frozenset(forgotten), frozenset(excluded))


def forgotten_here() -> set[str]:
    """Return the digests of all images that were forgotten on this machine, whatever became of their versions."""
    file = home.datasets() / FORGOTTEN_HERE
    return set(file.read_text().split()) if file.exists() else set()


def remember_forgotten(sha256: str) -> None:
    """Add a digest to those of `forgotten_here`."""
    if sha256 not in forgotten_here():
        home.datasets().mkdir(parents=True, exist_ok=True)
        with (home.datasets() / FORGOTTEN_HERE).open("a") as file:
            file.write(f"{sha256}\n")


def _read(path: Path) -> set[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--exclude {path} cannot be read: {error}") from None
    return {entry for line in lines if (entry := COMMENT.sub("", line).strip())}
