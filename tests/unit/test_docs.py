"""The commands that the README and the pages of docs/ show exist, and take the arguments and options that are shown.

Nothing runs here: the command line's own parser reads each of them. tests/stories/test_pages.py runs them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from raycls.cli import app

ROOT = Path(__file__).parents[2]
WRITTEN = sorted(path for path in (ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *WRITTEN, *sorted((ROOT / "docs" / "reference").glob("*.md"))]
# Scripts that take what these commands take.
JOBS = {
    "jobs/train.py": "train",
    "jobs/tune.py": "tune",
    "jobs/retrain.py": "retrain",
    "jobs/score.py": "score",
}
MAX_LINES = 150
COMMAND: Any = typer.main.get_command(app)


def _blocks(page: Path) -> Iterator[list[str]]:
    """The words of each command of raycls in the page's blocks of shell commands, without `raycls` itself."""
    for block in re.findall(r"^```(?:bash|sh)\n(.*?)^```", page.read_text(), re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            yield from _calls(line)


def _calls(line: str) -> Iterator[list[str]]:
    for part in re.findall(r"\$\((raycls [^)|]*)", line):
        yield shlex.split(part)[1:]
    for part in re.split(r"&&|;|\|", re.sub(r"\$\([^)]*\)", "RESULT", line)):
        words = shlex.split(part, comments=True)
        while words and re.match(r"[A-Z_]+=", words[0]):
            words = words[1:]
        for job, command in JOBS.items():
            if job in words:
                yield [command, *words[words.index(job) + 1 :]]
        if words and words[0] == "raycls":
            yield words[1:]


def _found(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that the words name, and its own words. Raises LookupError where there is no such command."""
    command = COMMAND
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    if command is COMMAND:
        raise LookupError(f"No such command: {words[0]}")
    if words and not getattr(command, "invoke_without_command", False):
        # `tune DATASET` is `tune run DATASET`.
        command = command.commands[command.default] if hasattr(command, "default") else command
    return command, words


def _parse(words: list[str]) -> None:
    """Have the command's own parser read the words. Raises LookupError, or the usage error that a user would see."""
    command, own = _found(words)
    command.make_context(command.name, own)


def _mentions(page: Path) -> Iterator[list[str]]:
    """The words of each mention in a sentence, like `raycls tune --space`: less than a whole command."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for mention in re.findall(r"`raycls ([^`]+)`", text):
        yield mention.split()


def _check_options(words: list[str]) -> None:
    command, own = _found(words)
    known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    for word in own:
        assert not word.startswith("-") or word in known, f"{command.name} has no option {word}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_shown_are_those_of_the_command_line(page: Path) -> None:
    for words in _blocks(page):
        try:
            _parse(words)
        except Exception as error:  # typer has no public class of usage errors
            pytest.fail(f"{page.name}: raycls {' '.join(words)}: {getattr(error, 'message', error)}")
    for words in _mentions(page):
        _check_options(words)


def test_many_commands_are_found() -> None:
    assert sum(1 for page in WRITTEN for _ in _blocks(page)) > 60
    assert sum(1 for page in WRITTEN for _ in _mentions(page)) > 30


@pytest.mark.parametrize(
    "line",
    ["raycls trian cifar10", "raycls train", "raycls train cifar10 --presets fast", "raycls up --port 99999"],
)
def test_a_command_that_does_not_exist_is_noticed(line: str) -> None:
    (words,) = _calls(line)
    with pytest.raises(Exception, match=r"No such|Missing|less than or equal"):
        _parse(words)


@pytest.mark.parametrize("page", WRITTEN, ids=lambda page: page.name)
def test_a_page_is_short_and_its_first_section_is_a_task(page: Path) -> None:
    text = page.read_text()
    assert len(text.splitlines()) <= MAX_LINES
    assert text.startswith("# ")
    if page.name not in (
        "architecture.md",
        "runbook.md",
    ):  # one shows the parts, one is for when nothing runs
        first = text.split("\n## ")[1]
        assert "```bash\n" in first
