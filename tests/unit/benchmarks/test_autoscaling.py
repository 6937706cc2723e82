"""The autoscaling benchmark: what it concludes from replicas counted over time, and its page and plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness import results_page
from PIL import Image

from benchmarks.autoscaling import HEAD, SECTIONS, draw, main, told
from raycls.errors import UsageError


def _row(looks: list[tuple[float, int]]) -> dict[str, Any]:
    loads = [
        {"at": at, "connections": 64, "requests_per_s": 900.0, "p99_ms": 80.0, "errors": 0} for at in range(3)
    ]
    return {"connections": 64, "step_at": 0.5, "end_at": 40.5, "target": 3, "looks": looks, "loads": loads}


STEADY = [(-5.0, 1), (0.25, 1), (5.5, 2), (9.5, 3), (40.0, 3), (72.5, 1)]


def test_moments_count_from_the_step_and_from_its_end() -> None:
    seen = told(_row(STEADY))
    assert seen == {
        "one_more_s": pytest.approx(5.0),
        "target_s": pytest.approx(9.0),
        "back_s": pytest.approx(32.0),
        "reversals": 1,  # up, then down
        "failed": 0,
    }


def test_wavering_is_counted_and_what_never_came_is_none() -> None:
    seen = told(_row([(-1, 1), (4, 2), (8, 1), (12, 2), (40, 2)]))
    assert (seen["target_s"], seen["back_s"], seen["reversals"]) == (None, None, 2)


def test_page_and_plot(tmp_path: Path) -> None:
    row = _row(STEADY)
    results_page.keep(tmp_path, "autoscaling", results_page.document("autoscaling", {}, [row | told(row)]))
    text = results_page.write(tmp_path, "autoscaling", HEAD, SECTIONS).read_text()
    assert "| a replica more takes requests, after the step | **5.0 s** | 8 s |" in text
    assert "| 3 replicas do, after the step | **9.0 s** | 15 s |" in text
    draw(row, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert min(picture.size) > 500


@pytest.mark.parametrize("wrong", [["--connections", "600"], ["--connections", "1"], ["--seconds", "0"]])
def test_a_load_that_cannot_be_is_wrong_use(wrong: list[str]) -> None:
    with pytest.raises(UsageError, match="--connections takes"):
        main(wrong)
