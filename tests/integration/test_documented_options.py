"""Commands of docs/ that differ in their options alone: raycls reads each of them, up to the first trial or epoch."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from raycls.cli import app
from raycls.training import folds, trainer
from raycls.tuning import study as studies
from tests.documentation import OPTIONS_ALONE, search_space


class Read(Exception):
    """The command was read: what it would train, or search."""


@pytest.mark.parametrize("command", OPTIONS_ALONE)
def test_a_documented_command_is_read(
    command: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    digits_home: Path,
    ray_session: None,
) -> None:
    def read(*given: Any, **named: Any) -> None:
        raise Read(given, named)

    monkeypatch.setattr(trainer, "train", read)
    monkeypatch.setattr(folds, "train_folds", read)
    monkeypatch.setattr(studies, "tune", read)
    monkeypatch.chdir(tmp_path)
    Path("space.yaml").write_text(search_space())
    Path("resnet18.pth").touch()
    words = shlex.split(command.replace("cifar10", "digits").replace("animals", "digits"))
    arguments = words[words.index("raycls") + 1 :]
    outcome = CliRunner().invoke(app, arguments)
    assert isinstance(outcome.exception, Read), outcome.output
    given, _ = outcome.exception.args
    config = given[1] if arguments[0] == "train" else given[0].config
    said = dict(option.split("=") for option in arguments if "=" in option)
    for name, value in said.items():
        (found,) = [
            found for path, found in config.flat().items() if path.split(".")[1] == name.rpartition(".")[2]
        ]
        assert str(found).lower().replace("(", "[").replace(")", "]").replace(" ", "") == value
    if "--network" in arguments:
        assert config.network.name == arguments[arguments.index("--network") + 1]
