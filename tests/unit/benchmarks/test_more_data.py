"""The benchmark of more from the same pictures: one seed of real runs, and its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import more_data
from raycls.data.versions import open_dataset


def test_each_arm_is_measured_and_on_the_page(
    digits_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--dataset", "digits", "--preset", "smoke", "--folds", "3", "--seeds", "4"]
    more_data.main([*arguments, "--output", str(tmp_path)])
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = {row["arm"]: row for row in document["rows"]}
    arms = more_data.ONE, more_data.REFIT, more_data.FOLDS, more_data.TUNED, more_data.SOUP
    assert tuple(rows) == arms
    counts = open_dataset("digits").info.counts
    assert all(row["images"] == counts["test"] + counts["gate"] for row in rows.values())
    assert all(row["one_ms"] > 0 and row["train_seconds"] > 0 for row in rows.values())
    gain = 100 * (rows[more_data.FOLDS]["accuracy"] - rows[more_data.ONE]["accuracy"])
    page = (tmp_path / "more_data.md").read_text()
    assert "## digits@1, preset `smoke`" in page
    assert f"| fold ensemble | {rows[more_data.FOLDS]['accuracy']:.2%} | {gain:+.2f} (" in page
