"""The resilience benchmark's page: every disturbance with what may fail and what did."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from harness import results_page
from harness.resilience_page import GOALS, HEAD, SECTIONS
from harness.served_copy import Server
from PIL import Image

from benchmarks.resilience import PARTS, main, row, steady
from raycls.benchmark.load import Sample
from raycls.errors import BenchmarkError, UnknownModelError, UsageError


def test_every_part_has_a_goal() -> None:
    assert set(PARTS) == set(GOALS)


def _sample(answered: int, errors: dict[str, int], p99: float | None) -> Sample:
    return Sample(
        answered=answered, errors=errors, requests_per_s=100, p50_ms=p99, p95_ms=p99, p99_ms=p99, mean_ms=p99,
        max_ms=p99, labelled=0, correct=0, generator_cores=0.1, late_p99_ms=None,
    )  # fmt: skip


def _page(tmp_path: Path, *samples: Sample) -> str:
    found = row("SIGKILL of a replica every 5 s", steady(250), samples, "12 kills")
    results_page.keep(tmp_path, "resilience", results_page.document("replica", {"rate": 250}, [found]))
    return results_page.write(tmp_path, "resilience", HEAD, SECTIONS).read_text()


def test_the_page_shows_the_failures_of_all_samples(tmp_path: Path) -> None:
    text = _page(tmp_path, _sample(14_000, {"500": 8, "timeout": 1}, 31.4), _sample(990, {"500": 1}, 20.2))
    shown = "| 250 requests/s | 0 | 15,000 | 500: 9, timeout: 1 | 31, 31 | 12 kills |"
    assert f"| SIGKILL of a replica every 5 s {shown}" in text
    assert "promote" not in text  # was not measured


def test_the_page_can_be_made_without_any_answer(tmp_path: Path) -> None:
    assert "| 0 | 10 | timeout: 10 | —, — | 12 kills |" in _page(tmp_path, _sample(0, {"timeout": 10}, None))


def test_an_impossible_rate_is_an_error() -> None:
    with pytest.raises(UsageError, match="from 10 to 500"):
        main(["update", "--rate", "0"])


class _Stage:
    """A server that only supports a load."""

    url = "http://127.0.0.1:9"

    def __init__(self, images: Path):
        self.images = images

    generator = Server.generator
    under_load = Server.under_load


def test_a_load_that_ends_too_soon_is_an_error(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    stage: Any = _Stage(tmp_path)
    with pytest.raises(BenchmarkError, match="ended too soon"), stage.under_load(20, 1) as sample:
        sample.result()


def test_an_exception_in_the_body_stops_the_load(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    stage: Any = _Stage(tmp_path)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), stage.under_load(20, 300):
        raise KeyboardInterrupt
    assert time.monotonic() - began < 60


def test_without_a_model_the_error_says_how_to_make_one(
    home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UnknownModelError, match="raycls train"):
        main(["update", "--output", str(tmp_path / "results")])
    assert capsys.readouterr().out == ""
    assert not (tmp_path / "results").exists()
