"""A study's page and its sentences."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycls.errors import StudyError, UsageError
from raycls.reports.study_report import in_short, saving, write_report
from raycls.tuning.spec import State, Trial


def _trial(number: int, state: State, accuracy: float | None, epochs: int, reason: str = "") -> Trial:
    return Trial(
        number=number,
        state=state,
        values={"optim.lr": 0.1 * (number + 1)},
        score=accuracy,
        epochs=epochs,
        seconds=2.0 * epochs,
        asked_at=0.0,
        ended_at=1.0,
        given=number == 0,
        reason=reason,
    )


TRIALS = [
    _trial(0, "done", 0.80, 4),
    _trial(1, "stopped early", 0.40, 1),
    _trial(2, "done", 0.85, 4),
    _trial(3, "failed", None, 0, "the loss became nan"),
]


def test_what_stopping_early_saved_is_reckoned_at_each_trials_own_pace() -> None:
    assert saving(TRIALS) == (pytest.approx(6.0), pytest.approx(6 / 24))


def test_the_sentences_say_what_was_found_and_what_failed() -> None:
    told = " ".join(in_short(TRIALS, TRIALS[2]))
    assert "The best trial is #2 (lr 0.3): val_accuracy 0.8500." in told
    assert "Trial #0, the configuration as it was given, has val_accuracy 0.8000." in told
    assert "1 of 4 trials were stopped early, which saved about 6 s of training, 25%" in told
    assert "Trial #3 (lr 0.4) failed: the loss became nan." in told
    assert "Trial #2 was chosen to be trained in full." in told


def test_there_is_no_page_of_nothing(digits_home: Path, tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="no study 'nope'"):
        write_report("nope", tmp_path / "page.html")
    with pytest.raises(UsageError, match="is no file in a folder that exists"):
        write_report("nope", tmp_path / "missing" / "page.html")
