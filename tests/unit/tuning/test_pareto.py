"""The front, the point that is chosen on it, and the times it rests on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raycls.config import override
from raycls.data.versions import open_dataset
from raycls.errors import ConfigError, UsageError
from raycls.training.presets import preset
from raycls.tuning import space as spaces
from raycls.tuning.latency import latencies
from raycls.tuning.pareto import choose, pareto_front
from raycls.tuning.space import Domain
from raycls.tuning.spec import StudySpec, Trial


def _trial(number: int, accuracy: float | None, latency: float) -> Trial:
    return Trial(
        number=number,
        state="done" if accuracy is not None else "failed",
        values={},
        score=accuracy,
        epochs=1,
        seconds=1.0,
        asked_at=0.0,
        ended_at=1.0,
        latency_ms=latency,
    )


FRONT = [_trial(0, 0.70, 1.0), _trial(1, 0.85, 1.5), _trial(2, 0.88, 3.0), _trial(3, 0.89, 6.0)]


def test_the_front_holds_what_no_other_beats_in_both() -> None:
    beaten = [_trial(4, 0.84, 1.5), _trial(5, 0.80, 2.0), _trial(6, 0.89, 7.0), _trial(7, None, 0.1)]
    assert pareto_front([*reversed(FRONT), *beaten]) == FRONT
    assert pareto_front(beaten[-1:]) == []


def test_the_budget_or_the_knee_chooses() -> None:
    assert choose(FRONT, None).number == 1
    assert choose(FRONT, 3.0).number == 2
    assert choose(FRONT, 100.0).number == 3
    assert choose(FRONT[2:], None).number == 3  # of two points neither is a knee: the more accurate
    with pytest.raises(
        UsageError, match=r"no trial is within --latency-budget-ms 0\.5: the fastest takes 1\.00 ms"
    ):
        choose(FRONT, 0.5)


def test_wider_and_deeper_networks_are_slower(digits_home: Path) -> None:
    dataset = open_dataset("digits")
    config = override(preset("smoke", dataset.info), ["precision=fp32"])
    space = {"network.widths": Domain(choices=([8, 8, 8], [256, 256, 256]))}
    spec = StudySpec(
        dataset="digits",
        fingerprint=dataset.info.fingerprint,
        config=config,
        storage="unused",
        space=space,
        trials=1,
        max_epochs=1,
        objective="accuracy,latency",
        latency_batch=8,
    )
    threads = torch.get_num_threads()
    times = latencies(spec, dataset)
    torch.set_num_threads(threads)
    names = [spaces.architecture(spaces.configured(config, point)) for point in spaces.grid(space)]
    assert set(times) == set(names)
    assert times[names[1]] > 2 * times[names[0]] > 0


def test_only_architectures_that_can_be_listed_are_timed(digits_home: Path) -> None:
    dataset = open_dataset("digits")
    config = preset("smoke", dataset.info)
    many = {"network.widths": Domain(choices=tuple([8 + i, 8, 8] for i in range(65)))}
    spec = StudySpec(
        dataset="digits", fingerprint="0", config=config, storage="", space=many, trials=1, max_epochs=1
    )
    with pytest.raises(ConfigError, match="65 architectures; at most 64"):
        latencies(spec, dataset)
    grown = spaces.architectures(config, dataset.info.image_size)["network.widths"].choices
    assert grown is not None
    assert {len(widths) for widths in grown} == {2, 3, 4}
