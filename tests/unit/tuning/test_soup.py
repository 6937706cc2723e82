"""Which trials of a study can be mixed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raycls.data.versions import open_dataset
from raycls.errors import StudyError
from raycls.training.presets import preset
from raycls.tuning.soup import best_trials, check_shapes
from raycls.tuning.spec import Trial


def _trial(number: int, score: float, values: dict[str, Any]) -> Trial:
    return Trial(
        number=number,
        state="done",
        values=values,
        score=score,
        epochs=1,
        seconds=1.0,
        asked_at=0.0,
        ended_at=1.0,
    )


def test_the_best_trials_come_first_and_the_earlier_one_wins_a_tie() -> None:
    trials = (_trial(0, 0.5, {}), _trial(1, 0.9, {}), _trial(2, 0.9, {}), _trial(3, 0.7, {}))
    assert [trial.number for trial in best_trials(trials, 3)] == [1, 2, 3]


@pytest.mark.parametrize("setting", ["network.widths", "network.image_size"])
def test_networks_of_several_shapes_are_refused_before_one_is_trained(
    setting: str, digits_home: Path
) -> None:
    config = preset("smoke", open_dataset("digits").info)
    values = {"network.widths": ("[8, 16, 16]", "[16, 16, 16]"), "network.image_size": (None, 8)}[setting]
    rates = [_trial(number, 0.9, {"optim.lr": 0.1 * (1 + number)}) for number in range(2)]
    check_shapes("digits-1", config, rates)
    shapes = [_trial(number, 0.9, {setting: value}) for number, value in enumerate(values)]
    with pytest.raises(StudyError, match="networks of 2 shapes, whose weights do not mix"):
        check_shapes("digits-1", config, shapes)
