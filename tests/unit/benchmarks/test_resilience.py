"""The resilience benchmark's page: every disturbance with what may fail and what did."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.resilience import GOALS, HEAD, PARTS, SECTIONS, main
from raycls import results_page
from raycls.errors import UnknownModelError


def test_every_part_has_a_goal_and_a_section() -> None:
    assert set(PARTS) == set(GOALS) == set(SECTIONS)


def test_the_page_tells_what_failed(tmp_path: Path) -> None:
    row = {
        "disturbance": "SIGKILL of a replica every 5 s",
        "answered": 14_990,
        "errors": {"502": 10},
        "p99_ms": 31.4,
        "max_ms": 910.2,
        "told": "12 kills",
    }
    results_page.keep(tmp_path, "resilience", results_page.document("replica", {"rate": 250}, [row]))
    text = results_page.write(tmp_path, "resilience", HEAD, SECTIONS).read_text()
    assert "At 250 requests/s" in text
    assert "| SIGKILL of a replica every 5 s | 0 | 15,000 | 502: 10 | 31, 910 | 12 kills |" in text
    assert "promote" not in text  # was not measured


def test_without_a_model_it_says_how_to_make_one(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnknownModelError, match="raycls train"):
        main(["update", "--output", str(tmp_path / "results")])
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "results").exists()
