"""The generated pages of docs/reference/ are those that the code gives today, and leave nothing unexplained."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES: dict[str, str] = runpy.run_path(str(DOCS / "generate_reference.py"))["pages"]()


def test_the_folder_holds_these_pages_alone() -> None:
    assert {path.name for path in (DOCS / "reference").iterdir()} == set(PAGES), "run `make docs`"


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_not_stale(name: str) -> None:
    assert (DOCS / "reference" / name).read_text() == PAGES[name], "the page is stale: run `make docs`"


@pytest.mark.parametrize("name", PAGES)
def test_every_row_has_a_meaning(name: str) -> None:
    unexplained = re.findall(r"^\| (\S+) .*\|\s+\|$", PAGES[name], re.M)
    assert not unexplained, "give the field or the option a description"


def test_a_field_is_a_row_with_its_bounds_and_its_default() -> None:
    assert "| `optim.warmup` | number, at least 0, below 1 | 0 |" in PAGES["settings.md"]
    assert "| `max_epochs` | whole number, at least 1 | required |" in PAGES["settings.md"]
    assert "| `--set` | KEY=VALUE, several |" in PAGES["commands.md"]
    assert "## `raycls tune`\n" in PAGES["commands.md"]
    assert "`raycls_requests_total`" in PAGES["metrics.md"]
