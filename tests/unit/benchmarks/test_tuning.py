"""The tuning benchmark: the page says what the parts say, and compute is counted up to the moment that counts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from harness import tuning_page, tuning_parts

from benchmarks.tuning import main
from raycls import machine
from raycls.errors import UnknownDatasetError
from raycls.tuning.spec import Trial

GRID = {"seed": 0, "grid_best": 0.75, "grid_epochs": 144, "best": 0.76, "epochs": 72, "reached_epochs": 21.6,
        "random_best": 0.74, "random_epochs": 72}  # fmt: skip
PLAIN = {"plain_seconds": 50, "helped_seconds": 40, "seconds": 45, "epochs": 22, "plain_epochs": 20,
         "helped_epochs": 21}  # fmt: skip
STOPPING = {"seed": 0, "none_best": 0.6, "none_epochs": 200, "asha_best": 0.61, "asha_epochs": 100,
            "stopped_early": 14, "none_best_in_as_much": 0.58}  # fmt: skip
SERVED = {"seed": 0, "latency_ms": 1.5, "again_ms": 1.6, "served_ms": 1.76, "front": [[1.0, 0.4], [1.5, 0.5]]}


def test_the_page_has_every_part(tmp_path: Path) -> None:
    measured = {
        "cost": [{"seconds_per_trial": 0.1, "training_seconds": 2.0}],
        "grid": [GRID],
        "stopping": [STOPPING],
        "optuna": [PLAIN],
        "nodes": [{"seconds_1": 100, "seconds_2": s} for s in (50, 56, 60)],
        "served": [SERVED],
    }
    (tmp_path / "tuning").mkdir()
    for name, rows in measured.items():
        document = {"name": name, "date": "2030-01-02 03:04", "arguments": {}, "rows": rows,
                    "hardware": machine.hardware(), "versions": machine.versions()}  # fmt: skip
        (tmp_path / "tuning" / f"{name}.json").write_text(json.dumps(document))
    text = tuning_page.write(tmp_path).read_text()
    assert "| **0.10 s** | at most 0.5 s | 2.00 s | 1 | 2030-01-02 03:04 |" in text
    assert "| 0 | 75.00% in 144 epochs | **0.15** (22 epochs) | 76.00% in 72 epochs |" in text
    assert "| 0 | 60.00% in 200 epochs | 61.00% in 100 epochs, 14 stopped early | **0.50** | 58.00% |" in text
    assert "74.00% in 72 epochs |" in text
    assert (
        "The median share is 0.15. The default search finds at least as much as random search in 1 of 1 seeds."
        in text
    )
    assert "| default settings | 50 s | 45 s | **0.90** (0.90 to 0.90) | 20, 22 | 1 |" in text
    assert "| with raycls's allocator settings | 40 s | 45 s | **1.12** (1.12 to 1.12) | 21, 22 | 1 |" in text
    assert "| 100 s | 56 s | **0.56** (0.50 to 0.60) | at most 0.60 | 3 |" in text
    assert (
        "2 points, 40.00% in 1.00 ms to 50.00% in 1.50 ms | 1.50 ms | 1.60 ms | 1.76 ms | **1.10** |" in text
    )


def _trial(number: int, asked_at: float, ended_at: float, accuracy: float) -> Trial:
    return Trial(
        number=number,
        state="done",
        values={},
        score=accuracy,
        epochs=int(ended_at - asked_at),
        seconds=ended_at - asked_at,
        asked_at=asked_at,
        ended_at=ended_at,
    )


def test_compute_is_counted_until_the_first_good_enough_trial_ends() -> None:
    trials = [_trial(0, 0, 10, 0.5), _trial(1, 0, 20, 0.9), _trial(2, 10, 30, 0.9), _trial(3, 30, 40, 0.9)]
    assert tuning_parts._compute_until(trials, 0.8) == pytest.approx(10 + 20 + 10)  # half of trial 2
    assert tuning_parts._compute_until(trials, 0.95) is None


def test_an_unknown_dataset_is_an_error(digits_home: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownDatasetError, match="no dataset 'nothing'"):
        main(["cost", "--dataset", "nothing", "--output", str(tmp_path)])


def test_the_best_within_some_compute_is_of_trials_that_have_ended() -> None:
    trials = [_trial(0, 0, 10, 0.5), _trial(1, 0, 20, 0.7), _trial(2, 10, 30, 0.9)]
    assert tuning_parts._best_within(trials, 30) == 0.7
    assert tuning_parts._best_within(trials, 50) == 0.9
