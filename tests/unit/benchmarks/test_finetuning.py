"""The benchmark of fine-tuning: one seed of real runs, and its page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import finetuning
from raycls.data.versions import open_dataset
from raycls.errors import UnknownDatasetError


def test_each_arm_is_measured_and_on_the_page(
    digits_home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    finetuning.main(["--dataset", "digits", "--preset", "smoke", "--seeds", "4", "--output", str(tmp_path)])
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    rows = {row["arm"]: row for row in document["rows"]}
    assert list(rows) == [
        finetuning.PARENT,
        finetuning.SCRATCH,
        finetuning.TUNED,
        *(f"{rate:g} of the rate, a third of the epochs" for rate in finetuning.RATES),
    ]
    counts = open_dataset("digits").info.counts
    assert all(row["images"] == counts["test"] + counts["gate"] for row in rows.values())
    assert all(row["calibration_error"] < row["calibration_error_before"] for row in rows.values())
    page = (tmp_path / "finetuning.md").read_text()
    gain = 100 * (rows[finetuning.TUNED]["accuracy"] - rows[finetuning.SCRATCH]["accuracy"])
    assert "## digits@1, parent on 90% of the images" in page
    assert f"| fine-tuned | 1 | {rows[finetuning.TUNED]['accuracy']:.2%} | {gain:+.1f} (" in page


def test_an_unknown_dataset_is_wrong_use(home: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownDatasetError, match="no dataset 'nothing'"):
        finetuning.main(["--dataset", "nothing", "--output", str(tmp_path)])
