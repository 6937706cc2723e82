"""The command line as a process: exit codes, one clear line, examples in every help, JSON alone on stdout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from raycls.cli import app, run


def raycls(*arguments: str, home: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "raycls", *arguments],
        env=os.environ | {"RAYCLS_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def _commands() -> list[tuple[str, ...]]:
    def walk(command: object, path: tuple[str, ...]) -> list[tuple[str, ...]]:
        children = getattr(command, "commands", {})
        return [p for name, child in children.items() for p in walk(child, (*path, name))] or [path]

    return walk(typer.main.get_command(app), ())


def test_the_commands_are_those_of_the_design() -> None:
    first = {path[0] for path in _commands()}
    assert first == {
        "data", "train", "tune", "evaluate", "models", "promote", "predict", "up", "down", "env", "doctor",
        "bench", "demo", "export", "top", "uploads", "tokens", "experiment", "retrain", "rollback", "drift",
        "feedback", "console", "networks", "ensemble", "soup", "prune", "reject", "score",
    }  # fmt: skip


@pytest.mark.parametrize("command", _commands(), ids=" ".join)
def test_every_help_shows_an_example(command: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as done:
        app([*command, "--help"], prog_name="raycls")
    assert done.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    # `raycls tune DATASET` is `raycls tune run DATASET`, `raycls retrain MODEL` is `raycls retrain start MODEL`.
    words = [
        word
        for word in command
        if command not in (("tune", "run"), ("retrain", "start")) or word == command[0]
    ]
    assert re.search(rf"Example: [^.]*raycls {' '.join(words)}", text)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train"], "Missing argument 'dataset'"),
        (["train", "digits", "--nope"], "No such option: --nope"),
        (["train", "digits", "--workers", "0"], "--workers"),
        (["train", "nope"], "raycls data prepare"),
        (["train", "digits", "--preset", "best"], "smoke, probe, quick, fast, strong, accurate"),
        (["train", "digits", "--network", "vgg"], "mlp, cnn, fastcnn"),
        (["train", "digits", "--set", "lr=-1"], "optim.lr"),
        (["train", "digits", "--set", "dropout=2"], "network.dropout"),
        (["train", "digits", "--set", "batch_size=1000000"], "training.batch_size"),
        (["train", "digits", "--set", "nope=1"], "unknown setting 'nope'"),
        (["train", "digits", "--set", "network.name=vgg"], "unknown network 'vgg'"),
        (["train", "digits", "--weights", "nowhere.pt"], "no file of weights nowhere.pt"),
        (["train", "digits", "--init", "nope"], "unknown model 'nope'"),
        (["train", "digits", "--init", "nope", "--weights", "pretrained"], "leave one out"),
        (["train", "digits", "--resume", "nope"], "no training run 'nope' of digits; those not finished: "),
        (
            ["train", "digits", "--resume", "nope", "--seed", "0"],
            "leave out all options but --workers",
        ),
        (["export", "nope"], "unknown model 'nope'"),
        (["export", "nope", "--format", "tflite"], "onnx, torch-export, torchscript"),
        (["export", "nope", "--format", "torchscript", "--int8"], "--format onnx or torch-export"),
        (["tune", "digits", "--trials", "0"], "--trials"),
        (["tune", "digits", "--max-epochs", "0"], "--max-epochs"),
        (["evaluate", "nope"], "unknown model 'nope'"),
        (["evaluate", "nope/x"], "NAME/VERSION"),
        (["promote", "nope", "1"], "unknown model 'nope'"),
        (["predict", "nope", "missing.png"], "cannot read missing.png"),
        (["data", "show", "nope"], "no dataset 'nope'"),
        (["data", "prepare", "/nowhere"], "/nowhere"),
        (["data", "prepare", "digits", "--size", "4"], "--size"),
        (["up", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["up", "--port", "99999"], "--port"),
        (["bench", "--replicas", "many"], "replicas"),
        (["bench", "--url", "http://127.0.0.1:1"], "--images"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_use_is_told_in_one_line_with_exit_code_2(
    digits_home: Path, arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    printed = capsys.readouterr()
    assert told in printed.err.splitlines()[-1]
    assert printed.out == ""


def test_the_process_exits_with_the_code(digits_home: Path) -> None:
    done = raycls("train", "digits", "--set", "lr=-1", home=digits_home)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "error: optim.lr=-1: input should be greater than 0"
    assert "Traceback" not in done.stderr


def test_a_server_that_is_not_there_fails_with_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    image = tmp_path / "image.png"
    image.write_bytes(b"not looked at")
    assert run(["predict", "http://127.0.0.1:9", str(image)]) == 1
    assert "raycls up" in capsys.readouterr().err


def test_json_is_the_whole_of_stdout(
    digits_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["data", "list", "--json"]) == 0
    assert "digits" in [info["name"] for info in json.loads(capsys.readouterr().out)]
    sheet = tmp_path / "sheet.png"
    assert run(["data", "show", "digits", "--sheet", str(sheet), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["contact_sheet"] == str(sheet)
    assert sheet.read_bytes().startswith(b"\x89PNG")


def test_env_can_be_evaluated_by_a_shell(tmp_path: Path) -> None:
    printed = raycls("env", home=tmp_path).stdout
    shell = subprocess.run(
        ["bash", "-c", f"{printed}\nenv"],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": os.environ["PATH"]},
    )
    assert "RAY_SERVE_ENABLE_HA_PROXY=1" in shell.stdout.splitlines()
    assert "RAY_AUTH_MODE=token" in shell.stdout.splitlines()


def test_down_with_nothing_running_says_so(tmp_path: Path) -> None:
    done = raycls("down", home=tmp_path)
    assert (done.returncode, done.stdout) == (0, "nothing was running\n")


def test_nothing_is_said_after_a_commands_own_last_word(tmp_path: Path) -> None:
    done = raycls("networks", "mlp", home=tmp_path)
    assert done.returncode == 0
    assert "mlp" in done.stdout
    assert done.stderr.splitlines()[-1].startswith("building networks: done in ")
