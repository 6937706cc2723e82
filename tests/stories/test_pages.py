"""Every command in the README and in docs/ runs: with digits for CIFAR-10, shorter, and on a port of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import takewhile
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from raycls.cluster.environment import free_port
from tests.documentation import DOCS, OPTIONS_ALONE, PAGES, README, ROOT, commands_of, search_space

# CI runs these as they stand.
MAKE = {"make setup", "make demo", "make test"}
# The benchmarks of minutes: tests/stories/test_benchmarks.py runs both scripts' whole path, shorter.
BENCHMARKS = {"python benchmarks/serving.py", "python benchmarks/training.py"}
# Serves until Ctrl-C: tests/stories/test_serve_run.py.
SERVE_RUN = "serve run serve_config.yaml"
# Needs a run that was broken off: tests/stories/test_killed_training.py.
RESUME = "raycls train cifar10 --resume RUN"
# The same of a study: tests/stories/test_killed_study.py.
RESUME_STUDY = "raycls tune cifar10 --resume STUDY"
# Needs classes with the same names, which digits and photographs do not have: tests/unit/training/test_evaluation.py.
OTHER_DATASET = "raycls evaluate cifar10 --dataset pets --split val"

# `raycls up` takes another port where 8265 is not free, and keeps a record of it.
DASHBOARD = """$(python -c "import json; print(json.load(open('$RAYCLS_HOME/cluster.json'))['dashboard'])")"""

SHORTER = [
    ("data prepare cifar10", "data prepare digits"),
    ("cifar10", "digits"),
    ("--preset fast", "--preset smoke"),
    ("--preset accurate", "--preset smoke"),
    ("--preset quick", "--preset smoke"),
    ("--network cnn --set training.epochs=2", "--network cnn --preset smoke"),
    ("--trials 8 --max-epochs 2 --set train_fraction=0.15", "--trials 2 --preset smoke"),
    ("--trials 8 --max-epochs 2", "--trials 2 --preset smoke"),
    # The studies `widths` and `searched` are in tests.documentation.OPTIONS_ALONE: `first` stands for them.
    ("tune show widths", "tune show first"),
    ("soup --study searched", "soup --study first"),
    ("--trials 8 --max-epochs 1", "--trials 3 --preset smoke"),
    ("--trials 4 --max-epochs 1", "--trials 2 --preset smoke"),
    ("jobs/train.py digits", "jobs/train.py digits --preset smoke"),
    ("-- python jobs", f"-- {sys.executable} jobs"),
    ("label=cat", "label=3"),
    ("--label dog", "--label 3"),
    ('"then": "nothing"', '"then": "nothing", "preset": "smoke"'),
    ('\\"cat\\"', '\\"3\\"'),
    # The gate of digits has too few images to tell two models of it apart.
    ("raycls promote digits", "raycls promote --force --reason 'few images' digits"),
    # Of a small model of digits, no more can be wished.
    ("--precision 0.98", "--precision 0.6"),
    ("--seconds 1 --repeats 1", "--seconds 0.3 --repeats 1 --connections 2 --rates none"),
]

MADE_ONCE = (
    "raycls data prepare ",
    "raycls train ",
    "raycls tune digits ",
    "raycls evaluate ",
    "raycls export ",
    "raycls prune ",
)


def test_each_command_is_run_by_someone() -> None:
    commands = [command for page in (README, *PAGES) for command in commands_of(page)]
    assert set(MAKE) <= set(commands)
    assert all(not commands_of(page) for page in DOCS.rglob("*.md") if page not in PAGES), (
        "a page that no test runs"
    )
    assert {RESUME, RESUME_STUDY, OTHER_DATASET, *OPTIONS_ALONE} <= set(commands)
    for name in ("prepare", "list", "show", "diff", "remove", "check"):
        assert any(command.startswith(f"raycls data {name}") for command in commands)
    for name in (
        "train",
        "networks",
        "ensemble",
        "soup",
        "tune",
        "models",
        "evaluate",
        "reject",
        "promote",
        "up",
        "doctor",
        "predict",
        "score",
        "bench",
        "down",
        "export",
        "prune",
    ):
        assert any(command.startswith(f"raycls {name}") for command in commands), name


def _rgb(path: Path, seed: int, size: tuple[int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


def _elsewhere(command: str) -> bool:
    elsewhere = {*MAKE, SERVE_RUN, RESUME, RESUME_STUDY, OTHER_DATASET, *OPTIONS_ALONE}
    return command in elsewhere or command.startswith(("source ", *BENCHMARKS))


def _adapted(command: str, port: int) -> str:
    for old, new in SHORTER:
        command = command.replace(old, new)
    # A refit has the settings of the earlier run.
    trains = command.startswith(("raycls train ", "raycls prune "))
    if trains and not {"--preset", "--refit"} & set(command.split()):
        command += " --preset smoke"
    if command.startswith("raycls retrain digits"):
        command += " --preset smoke"
    if command.startswith("raycls experiment"):
        command += f" --url http://127.0.0.1:{port}"
    if re.match(r"raycls (up|doctor|bench)\b", command):
        command += f" --port {port}"
    if command.startswith("raycls bench"):
        command += " --yes"  # because `_without_restarts` may have left out the `raycls down` before it
    if command.startswith("curl "):
        command = f"curl --fail-with-body --silent --show-error {command.removeprefix('curl ')} && echo"
    return command.replace(":8000", f":{port}").replace("http://127.0.0.1:8265", DASHBOARD)


def _script(commands: list[str], port: int) -> list[str]:
    """The commands as the test runs them, without what an earlier command has made."""
    adapted = [_adapted(command, port) for command in commands if not _elsewhere(command)]
    made: set[str] = set()
    script = []
    for command in adapted:
        if command not in made:
            script.append(command)
        if command.startswith(MADE_ONCE):
            made.add(command)
    return _without_restarts(script)


def _without_restarts(script: list[str]) -> list[str]:
    """The commands without `raycls down` where the next page begins with the same `raycls up`, nor that one.

    Training in between has the machine for itself, as the pages mean it.
    """
    kept: list[str] = []
    up = ""  # the command that has started what runs
    for place, command in enumerate(script):
        if command == "raycls down":
            rest = script[place + 1 :]
            before = list(takewhile(lambda each: not each.startswith("raycls up"), rest))
            trains = any(each.startswith(("raycls train", "raycls tune")) for each in before)
            if up in rest[len(before) : len(before) + 1] and not trains:
                continue
            up = ""
        elif command.startswith("raycls up"):
            if command == up:
                continue
            up = command
        kept.append(command)
    return kept


def _run(folder: Path, *pages: Path) -> str:
    """Run the pages' commands in the folder and in one home, from top to bottom, and return what they print.

    The home is beside the folder, because `ray job submit --working-dir .` uploads all that is in the folder.
    """
    commands = [command for page in pages for command in commands_of(page)]
    # Each command is shown with the seconds since the start.
    program = "PS4='+ ${SECONDS} s: '\nset -ex\n" + "\n".join(_script(commands, free_port(8000))) + "\n"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(folder),
        "RAYCLS_HOME": str(folder.with_name(f"{folder.name}-home")),
    }
    output, log = folder.with_name("stdout"), folder.with_name("stderr")
    try:
        with output.open("w") as stdout, log.open("w") as stderr:
            done = subprocess.run(
                ["bash", "-c", program],
                cwd=folder,
                env=environment,
                stdout=stdout,
                stderr=stderr,
                check=False,
            )
    finally:
        subprocess.run(["raycls", "down"], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, f"…{log.read_text()[-4000:]}\nall of it: {log}"
    return output.read_text()


def _fill(folder: Path) -> None:
    """The files that the pages take as given."""
    from torchvision.models import resnet18

    for first, label in ((0, "cat"), (100, "dog")):
        _rgb(folder / f"{label}.png", first, (40, 30))
        for i in range(12):
            _rgb(folder / "photos" / label / f"{i}.jpg", first + i, (50, 70))
    torch.save(resnet18().state_dict(), folder / "resnet18.pth")
    small = timm.create_model("mobilenetv4_conv_small")
    torch.save(small.state_dict(), folder / "mobilenetv4.pth")
    (folder / "space.yaml").write_text(search_space())
    for name in ("serve_config.yaml", "jobs", "raycls"):
        (folder / name).symlink_to(ROOT / name)


def _assert_readme(folder: Path, output: str, pages: tuple[Path, ...]) -> None:
    assert '"model_version": "1"' in output or '"model_version":"1"' in output
    assert (folder / "pets.png").exists()
    assert (folder / "bench" / "serving.md").exists()
    jobs = sum("ray job submit" in command for page in pages for command in commands_of(page))
    assert output.count("succeeded") == jobs
    assert len(list((folder / "scores").glob("part-*"))) == 1
    assert (folder / "digits.html").stat().st_size > 100_000
    assert "explanation_png_base64" in output


@pytest.mark.timeout(1800)
def test_the_readme_from_top_to_bottom(tmp_path: Path) -> None:
    _fill(tmp_path)
    _assert_readme(tmp_path, _run(tmp_path, README), (README,))


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_the_readme_and_the_documentation_from_top_to_bottom(tmp_path: Path) -> None:
    _fill(tmp_path)
    pages = (README, *PAGES)
    output = _run(tmp_path, *pages)
    _assert_readme(tmp_path, output, pages)
    assert all(len(list((tmp_path / name).glob("part-*"))) == 1 for name in ("scores-csv", "job-scores"))
    assert (tmp_path / "small.onnx").stat().st_size > 1000
    assert (tmp_path / "first.html").stat().st_size > 1_000_000  # plotly's own code is within
    assert re.search(r"trial .* verified", output)
    assert "registered pets/1" in output
    assert re.search(r'raycls_model_info{device="cpu",engine="\w+",name="digits",replica=', output)
    assert 'version="2"' in output
