"""Whether a patch may act: the code that it relies on must be the code that it was written for.

    if usable(PATCH):
        install()

    python -m raycls.ray_patches        # prints the present digests, for a new version of a library

The guard compares the installed version of the library and a hash of the source of each target. It reads source files
and imports nothing. A patch that speeds something up and does not match stays off, with one warning: Ray then works its
own way. A patch that raycls needs for its security or to work at all raises ClusterError.

`RAYCLS_PATCHES` chooses the patches that may act, in every process that sees it: `none`, or names with commas. It has
no effect on needed patches.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from raycls.errors import ClusterError

CHOICE = "RAYCLS_PATCHES"
DIGITS = 16  # of a target's SHA-256

State = Literal["active", "off", "does not match"]
logger = logging.getLogger("raycls.ray_patches")


@dataclass(frozen=True, kw_only=True)
class Patch:
    """One patch. `targets`: "package/file.py::Qualified.name" and the first DIGITS of the SHA-256 of its source."""

    name: str
    library: str
    version: str
    buys: str
    needed: bool = False
    targets: Mapping[str, str] = field(default_factory=dict, hash=False)


def usable(patch: Patch) -> bool:
    """Return whether the patch may act in this process. Raises ClusterError for a needed one that does not match."""
    return _usable(patch, os.environ.get(CHOICE))


@functools.cache
def _usable(patch: Patch, choice: str | None) -> bool:
    if patch.needed or _chosen(patch, choice):
        if not (difference := mismatch(patch)):
            return True
        if patch.needed:
            raise ClusterError(
                f"raycls needs the patch {patch.name}, and {difference}: install the version of "
                f"{patch.library} that raycls pins ({patch.version})"
            )
        logger.warning(f"raycls runs without the patch {patch.name}: {difference}")
    return False


def state(patch: Patch) -> tuple[State, str]:
    """Return the patch's state in this process, and why it does not match where it does not."""
    if not patch.needed and not _chosen(patch, os.environ.get(CHOICE)):
        return "off", f"{CHOICE}={os.environ[CHOICE]}"
    difference = mismatch(patch)
    return ("does not match", difference) if difference else ("active", "")


def _chosen(patch: Patch, choice: str | None) -> bool:
    return not choice or patch.name in choice.replace(" ", "").split(",")


def mismatch(patch: Patch) -> str:
    """Return what differs from the code that the patch was written for, "" where nothing does."""
    try:
        installed = version(patch.library)
    except PackageNotFoundError:
        return f"{patch.library} is not installed"
    if installed != patch.version:
        return f"{patch.library} {installed} is installed, the patch is for {patch.version}"
    for target, expected in patch.targets.items():
        if digest(target) != expected:
            return f"{target} is not the code that the patch was written for"
    return ""


def digest(target: str) -> str:
    """Return the first DIGITS of the SHA-256 of the target's source; "" where there is no such name."""
    file, _, name = target.partition("::")
    source = source_of(file)
    found = _find(ast.parse(source), name.split(".")) if source else None
    segment = ast.get_source_segment(source, found) if found else None
    return hashlib.sha256(segment.encode()).hexdigest()[:DIGITS] if segment else ""


def source_of(file: str) -> str:
    """Return the text of an installed source file, like "ray/serve/handle.py"; "" where it is missing."""
    package, _, rest = file.partition("/")
    spec = find_spec(package)
    for root in (spec and spec.submodule_search_locations) or ():
        path = Path(root) / rest
        if path.is_file():
            return path.read_text()
    return ""


def _find(tree: ast.AST, path: list[str]) -> ast.AST | None:
    """Return the definition or the assignment of the name, looked for level by level."""
    for node in ast.iter_child_nodes(tree):
        names = [getattr(node, "name", None)]
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [target.id for target in targets if isinstance(target, ast.Name)]
        if path[0] in names:
            return _find(node, path[1:]) if path[1:] else node
    return None
