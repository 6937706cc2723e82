"""Where the time of an epoch goes: the parts, the trace, and what is recorded at all."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path

import pytest
import torch

from raycls.config import Config, override
from raycls.data.packed import PackedDataset
from raycls.errors import TrainingError
from raycls.training import profile
from raycls.training.loop import fit
from raycls.training.presets import preset
from raycls.training.profile import PARTS, TABLE, TRACE, TRACED_STEPS, EpochRecorder, Profile


def _profiled(config: Config, dataset: PackedDataset, folder: Path) -> tuple[Profile, list[str]]:
    """Train, and return the profile and the names of the trace's events."""
    recorder = EpochRecorder(
        config.training.epochs, torch.device("cpu"), lambda made: shutil.copytree(made, folder) and None
    )
    fit(config, dataset, on_epoch=lambda metrics, snapshot: None, recorder=recorder)
    events = json.loads(gzip.decompress((folder / TRACE).read_bytes()))["traceEvents"]
    return Profile(**json.loads((folder / TABLE).read_text())), [event["name"] for event in events]


@pytest.fixture
def smoke(digits: PackedDataset) -> Config:
    return override(preset("smoke", digits.info), ["epochs=3", "batch_size=200", "precision=fp32"])


def test_the_second_epoch_is_recorded_by_part(smoke: Config, digits: PackedDataset, tmp_path: Path) -> None:
    found, events = _profiled(smoke, digits, tmp_path / "made")
    assert (found.epoch, found.steps, found.traced) == (2, 6, 6)
    assert set(found.seconds) == set(PARTS)
    assert all(found.seconds[part] > 0 for part in PARTS)
    assert [events.count(part) for part in ("read", "forward", "backward", "optimiser")] == [13, 6, 6, 6]
    assert events.count("validation") == 1
    assert any("conv" in event for event in events)
    assert not profile._recording


def test_a_single_epoch_is_recorded_and_a_long_one_has_a_trace_of_its_first_steps(
    smoke: Config, digits: PackedDataset, tmp_path: Path
) -> None:
    config = override(smoke, ["epochs=1", "batch_size=16"])
    found, events = _profiled(config, digits, tmp_path / "made")
    assert (found.epoch, found.steps, found.traced) == (1, 1260 // 16, TRACED_STEPS)
    assert events.count("forward") == TRACED_STEPS
    assert "validation" not in events
    assert found.seconds["validation"] > 0


def test_a_recorded_training_computes_the_same(smoke: Config, digits: PackedDataset) -> None:
    def weights(recorder: EpochRecorder | None) -> torch.Tensor:
        network = fit(smoke, digits, on_epoch=lambda metrics, snapshot: None, recorder=recorder)
        return torch.cat([parameter.flatten() for parameter in network.parameters()])

    recorder = EpochRecorder(3, torch.device("cpu"), lambda folder: None)
    assert torch.equal(weights(None), weights(recorder))


def test_a_training_that_fails_in_the_recorded_epoch_ends_the_recording(
    smoke: Config, digits: PackedDataset
) -> None:
    wild = override(smoke, ["lr=10", "optim.name=adamw", "weight_decay=1", "epochs=1", "batch_size=16"])
    recorder = EpochRecorder(1, torch.device("cpu"), lambda folder: None)
    with pytest.raises(TrainingError, match="lower the learning rate"):
        fit(wild, digits, on_epoch=lambda metrics, snapshot: None, recorder=recorder)
    assert not profile._recording


def test_the_largest_part_is_named() -> None:
    found = Profile(epoch=2, steps=10, traced=10, seconds={"read": 0.2, "forward": 0.5, "backward": 0.3})
    assert found.rows() == [
        ("forward", "50.0%", "50.00"),
        ("backward", "30.0%", "30.00"),
        ("read", "20.0%", "20.00"),
    ]
    assert found.told() == (
        "the largest part of epoch 2 was the forward pass: 50.0%, 50.00 ms for each of its 10 steps"
    )
