"""The drift benchmark: windows with changed images alarm, ordinary ones do not, and the page says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from harness import drift_page, results_page

from benchmarks.drift import Answers, noisy
from raycls.drift.reference import make
from tests.unit.drift.pictures import batch

ALARMS = [
    {"change": "ordinary", "share": 0.0, "window": 200, "windows": 100, "alarmed": 1, "features": {"class": 1}},
    {"change": "dark", "share": 0.5, "window": 200, "windows": 20, "alarmed": 20, "features": {"brightness": 20}},
]  # fmt: skip
COST = [{"side": 32, "batch": 1, "update_us": us, "forward_us": 400.0} for us in (4.0, 8.0, 20.0)]


def answers(seed: int) -> Answers:
    probabilities, embeddings, images, sizes = batch(300, seed)
    return Answers(images, sizes, probabilities, embeddings)


@pytest.mark.parametrize(("changed", "features"), [(0, set()), (300, {"contrast", "sharpness"})])
def test_a_window_is_made_of_changed_and_ordinary_images(changed: int, features: set[str]) -> None:
    ordinary = answers(1)
    others = Answers(noisy(ordinary.images, 25), ordinary.sizes, ordinary.probabilities, ordinary.embeddings)
    found = ordinary.alarms(make(*batch(1000, 0)), others, np.arange(300), changed)
    assert set(found) == features


def test_the_page_has_every_part(tmp_path: Path) -> None:
    given = {"model": "pets/1", "dataset": None}
    for document in (
        results_page.document("cost", {}, COST),
        results_page.document("alarms-pets", given, ALARMS),
    ):
        results_page.keep(tmp_path, "drift", document)
    text = drift_page.write(tmp_path).read_text()
    assert "| 32 | 1 | 8.0 | 400 | **2.0%** (1.0% to 5.0%) |" in text
    assert "## Alarms: pets/1" in text
    assert "| ordinary | – | 1 of 100 | class 1 |" in text
    assert "| dark | 50% | 20 of 20 | brightness 20 |" in text
