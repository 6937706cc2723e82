"""The autoscaling benchmark: its summary of the replicas over time, its page and its plot."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from harness import results_page
from PIL import Image

from benchmarks.autoscaling import HEAD, SECTIONS, draw, main, summary
from raycls.errors import UsageError


def _row(looks: list[tuple[float, int]]) -> dict[str, Any]:
    loads = [
        {"at": at, "connections": 64, "requests_per_s": 900.0, "p99_ms": 80.0, "errors": 0} for at in range(3)
    ]
    return {"connections": 64, "step_at": 0.5, "end_at": 40.5, "target": 3, "looks": looks, "loads": loads}


STEADY = [(-5.0, 1), (0.25, 1), (5.5, 2), (9.5, 3), (40.0, 3), (72.5, 1)]


def test_times_count_from_the_step_and_from_the_end_of_the_load() -> None:
    seen = summary(_row(STEADY))
    assert seen == {
        "one_more_s": pytest.approx(5.0),
        "target_s": pytest.approx(9.0),
        "back_s": pytest.approx(32.0),
        "reversals": 1,  # up, then down
        "failed": 0,
    }


def test_reversals_are_counted_and_a_missing_event_is_none() -> None:
    seen = summary(_row([(-1, 1), (4, 2), (8, 1), (12, 2), (40, 2)]))
    assert (seen["target_s"], seen["back_s"], seen["reversals"]) == (None, None, 2)


def test_page_and_plot(tmp_path: Path) -> None:
    row = _row(STEADY)
    results_page.keep(tmp_path, "autoscaling", results_page.document("autoscaling", {}, [row | summary(row)]))
    text = results_page.write(tmp_path, "autoscaling", HEAD, SECTIONS).read_text()
    assert "| time from the step until one more replica takes requests | **5.0 s** | 8 s |" in text
    assert "| time from the step until 3 replicas take requests | **9.0 s** | 15 s |" in text
    draw(row, tmp_path / "plot.png")
    with Image.open(tmp_path / "plot.png") as picture:
        assert min(picture.size) > 500


@pytest.mark.parametrize("wrong", [["--connections", "600"], ["--connections", "1"], ["--seconds", "0"]])
def test_an_impossible_load_is_an_error(wrong: list[str]) -> None:
    with pytest.raises(UsageError, match="--connections takes"):
        main(wrong)
