"""OpenVINO's graphs as files: a folder with the graph, its constants and a digest of both.

    write(graph, folder)               # complete or not at all
    graph = read(folder)               # None where it is missing or damaged

The engines `openvino` and `openvino-int8` keep their graphs so. This module does not know what a graph computes. It
also has what both need to make one: the openvino module without its telemetry, and another process to work in.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from raycls.errors import EngineError

GRAPH, CONSTANTS, DIGEST = "model.xml", "model.bin", "sha256"
INT8_FOLDER = "openvino-int8"  # in a checkpoint directory


def read(folder: Path) -> Any:
    """Return the graph in `folder`, or None if it is missing or damaged."""
    if digest(folder) is None:
        return None
    with suppress(OSError):  # a read-only cache keeps its old time, and nothing in it is deleted
        os.utime(folder)
    return without_telemetry().Core().read_model(folder / GRAPH)


def write(graph: Any, folder: Path) -> None:
    """Write the graph to `folder`, complete or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        complete = Path(scratch, "complete")
        complete.mkdir()
        without_telemetry().save_model(graph, complete / GRAPH, compress_to_fp16=False)
        (complete / DIGEST).write_text(_digest(complete))
        try:
            complete.rename(folder)
        except OSError:  # the folder exists: another process wrote it, or it is damaged
            if digest(folder) is None:
                shutil.rmtree(folder)
                complete.rename(folder)


def digest(folder: Path) -> str | None:
    """Return the digest of the graph in `folder`, 64 hex digits, or None if the graph is missing or damaged."""
    try:
        found = _digest(folder)
        return found if found == (folder / DIGEST).read_text() else None
    except OSError:
        return None


def in_other_process(module: str, *arguments: Path) -> None:
    """Run `python -m module arguments`, so that this process stays small. Raises EngineError with its last words."""
    command = [sys.executable, "-m", module, *map(str, arguments)]
    # Ray may have added this package to sys.path only. The new process needs the same path.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        raise EngineError(f"signal {-done.returncode} ended the conversion of {arguments[0]}")
    if done.returncode:
        reason = (
            done.stderr.strip() or f"the conversion of {arguments[0]} ended with exit code {done.returncode}"
        ).splitlines()[-1]
        raise EngineError(reason.removeprefix("error: "))


def without_telemetry() -> ModuleType:
    """Return the openvino module. Its import would send telemetry if `openvino_telemetry` could be imported."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def _digest(folder: Path) -> str:
    files = (folder / name for name in (GRAPH, CONSTANTS))
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
