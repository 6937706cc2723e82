"""Runs that Weights & Biases keeps on this machine, read by its own command `wandb leet inspect`."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest


def offline(monkeypatch: pytest.MonkeyPatch, folder: Path, mode: str = "offline") -> None:
    """Let wandb write below the folder alone, and know neither the developer's login nor an earlier test's settings."""
    import wandb

    for name in ("WANDB_API_KEY", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_DIR", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", mode)
    for name in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(folder / "wandb" / name))
    monkeypatch.setenv("NETRC", str(folder / "netrc"))
    with suppress(ConnectionError):  # where an earlier test has killed its process
        wandb.teardown()


@dataclass
class Record:
    """What one run holds, over all its files: a resumed run has one for each start."""

    project: str = ""
    name: str = ""
    group: str = ""
    exit_code: int = -1
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[str, list[str]] = field(default_factory=dict)

    def curve(self, name: str) -> dict[int, float]:
        return {int(row["epoch"]): row[name] for row in self.rows if name in row}

    @property
    def media(self) -> set[str]:
        return {key.removesuffix("._type") for row in self.rows for key in row if key.endswith("._type")}


def record(home: Path, run_id: str) -> Record:
    """Return what the run of this id holds under the home."""
    found = Record()
    for folder in sorted((home / "wandb").glob(f"offline-run-*-{run_id}")):
        command = [str(Path(sys.executable).with_name("wandb")), "leet", "inspect", "--json", str(folder)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        for line in map(json.loads, lines):
            _add(found, line["type"], line[line["type"]])
    return found


def _add(found: Record, kind: str, value: dict[str, Any]) -> None:
    if kind == "run":
        found.project, found.name = value["project"], value["display_name"]
        found.group = value.get("run_group", "")
    elif kind == "exit":
        found.exit_code = value["exit_code"]
    elif kind == "config":
        found.config |= value["update"]
    elif kind == "summary":
        found.summary |= value["update"]
    elif kind == "history":
        found.rows.append(value["item"])
    elif kind == "artifact":
        files = [entry["path"] for entry in value["manifest"]["contents"]]
        found.artifacts.setdefault(value["type"], []).extend(files)
