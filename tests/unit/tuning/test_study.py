"""What a whole training takes from the best of shorter trials."""

from __future__ import annotations

from typing import Any

import pytest

from raycls.config import override
from raycls.tuning.spec import StudySpec, Trial
from raycls.tuning.study import Study


def _study(
    spec: StudySpec,
    values: dict[str, Any],
    *,
    given: bool = False,
    fraction: float = 0.1,
    max_epochs: int = 2,
) -> Study:
    config = override(spec.config, ["epochs=6", f"train_fraction={fraction}", "lr=0.24"])
    spec = spec.model_copy(update={"config": config, "max_epochs": max_epochs})
    trial = Trial(
        number=0,
        state="done",
        values=values,
        score=0.5,
        epochs=max_epochs,
        seconds=1.0,
        asked_at=0.0,
        ended_at=1.0,
        given=given,
    )
    return Study(name="any", run_id="any", spec=spec, trials=(trial,))


def test_a_rate_that_won_in_short_trials_is_lowered_for_a_whole_training(spec: StudySpec) -> None:
    study = _study(spec, {"optim.lr": 0.6, "network.dropout": 0.25})
    assert study.lr_factor == pytest.approx(30**-0.32)  # six epochs of all images, two of a tenth
    assert study.config.optim.lr == pytest.approx(0.6 * 30**-0.32)
    assert (study.config.training.train_fraction, study.config.network.dropout) == (1.0, 0.25)


def test_a_rate_that_suits_a_whole_training_stays(spec: StudySpec) -> None:
    assert _study(spec, {"optim.lr": 0.24}, given=True).config.optim.lr == 0.24
    assert _study(spec, {"network.dropout": 0.25}).config.optim.lr == 0.24
    assert _study(spec, {"optim.lr": 0.6}, fraction=1.0, max_epochs=6).config.optim.lr == 0.6
