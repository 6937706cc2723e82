"""What the benchmark of calibration computes of answers whose calibration is known."""

from __future__ import annotations

import calibration
import pytest
import torch
from harness import calibration_page, results_page

from raycls.errors import UsageError


def _part(images: int, seed: int) -> calibration.Part:
    """Logits of a model that is half as sure as it should be, and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(images, 5, generator=generator)
    return logits / 2, torch.multinomial(logits.softmax(1), 1, generator=generator)[:, 0]


def test_the_temperature_repairs_what_it_can_and_the_page_says_so() -> None:
    row = calibration.row_of([(_part(2000, 0), _part(3000, 1)), (_part(2000, 2), _part(3000, 3))])
    assert (row["fit_images"], row["test_images"]) == (2000, 6000)
    assert row["temperature"] == pytest.approx(0.5, rel=0.05)
    assert row["error_before"] > 0.1
    assert row["error_after"] < 0.02
    assert row["error_after"] <= row["plain_error_after"]
    assert row["right"] / row["answered"] > 0.94
    document = results_page.document(
        "models-pets-probe",
        {"dataset": "pets@1", "size": 8, "how": "probe", "precision": 0.95},
        [{"model": "one", **row}],
    )
    page = results_page.markdown({"models-pets-probe": document}, "# Calibration", calibration_page.SECTIONS)
    assert f"{row['error_after']:.2%} ({row['low']:.2%} to {row['high']:.2%})" in page
    assert "At most 1.5%" in page


def test_it_must_be_said_what_to_measure() -> None:
    with pytest.raises(UsageError, match="--dataset, --checkpoints or --simulate"):
        calibration.main([])
