"""A training that begins with a probe's head, and batch norms that keep their statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raycls.config import Config, override
from raycls.data.packed import PackedDataset
from raycls.data.subsets import Subset, opened
from raycls.errors import ConfigError
from raycls.models import checkpoint
from raycls.models.base import Network
from raycls.training import layers, linear_head
from raycls.training.loop import fit, start
from raycls.training.presets import preset
from raycls.training.setup import check


@pytest.fixture
def tiny_steps(digits: PackedDataset) -> Config:
    """Of a cnn, whose random features already tell digits apart, and which hardly learns."""
    settings = ["lr=1e-9", "warmup=0.5", "translate=0", "flip=false", "batch_size=64", "precision=fp32"]
    return override(preset("smoke", digits.info, "cnn"), [*settings, "epochs=2", "frozen_norms=true"])


def _accuracies(config: Config, dataset: PackedDataset, split: str = "val") -> list[float]:
    found: list[float] = []
    fit(config, dataset, on_epoch=lambda metrics, snapshot: found.append(metrics[f"{split}_accuracy"]))
    return found


def test_it_begins_with_what_a_probe_finds(digits: PackedDataset, tiny_steps: Config) -> None:
    (probed,) = _accuracies(override(tiny_steps, ["probe=true", "epochs=1"]), digits)
    begun = _accuracies(override(tiny_steps, ["fitted_head=true"]), digits)
    assert begun == pytest.approx([probed, probed], abs=0.01)
    assert probed > 0.6
    assert max(_accuracies(tiny_steps, digits)) < probed - 0.3


def test_without_val_a_part_of_train_judges_the_head(digits: PackedDataset, tiny_steps: Config) -> None:
    with opened(digits, Subset()) as part:
        assert _accuracies(override(tiny_steps, ["fitted_head=true"]), part, "train")[0] > 0.6


def test_a_resumed_run_does_not_fit_its_head_again(
    digits: PackedDataset, tiny_steps: Config, tmp_path: Path
) -> None:
    config = override(tiny_steps, ["fitted_head=true", "lr=1e-3"])
    whole = start(config, digits)
    epochs = whole.epochs()
    next(epochs)[1].save(tmp_path)
    next(epochs)
    resumed = start(config, digits, resume=tmp_path)
    assert [metrics["epoch"] for metrics, _ in resumed.epochs()] == [2]
    for ours, theirs in zip(resumed.kept.parameters(), whole.kept.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_resumed_run_prepares_its_layers_by_the_statistics_that_it_had(
    digits: PackedDataset, tiny_steps: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fit(
        override(tiny_steps, ["frozen_norms=false"]),
        digits,
        on_epoch=lambda _, snapshot: snapshot.save(tmp_path),
    )
    found, prepared = [], layers.prepared

    def look(network: Network, *more: Any) -> Network:
        found.append({key: value.clone() for key, value in network.state_dict().items()})
        return prepared(network, *more)

    monkeypatch.setattr(layers, "prepared", look)
    start(override(tiny_steps, ["epochs=3"]), digits, resume=tmp_path)
    kept = checkpoint.load(tmp_path)[0].state_dict()
    assert all(torch.equal(found[0][key], kept[key]) for key in kept)


@pytest.mark.parametrize("frozen", [True, False])
def test_batch_norms_keep_the_statistics_of_the_start(
    frozen: bool, digits: PackedDataset, tiny_steps: Config
) -> None:
    training = start(override(tiny_steps, [f"frozen_norms={str(frozen).lower()}", "lr=1e-3"]), digits)
    before = {key: value.clone() for key, value in training.kept.state_dict().items()}
    list(training.epochs())
    changed = {
        key for key, value in training.kept.state_dict().items() if not torch.equal(value, before[key])
    }
    statistics = {key for key in before if key.endswith(("running_mean", "running_var"))}
    assert statistics
    assert changed & statistics == (set() if frozen else statistics)
    assert "layers.1.weight" in changed  # of a batch norm, which learns


def test_a_head_without_a_bias_is_not_fitted(digits: PackedDataset) -> None:
    with pytest.raises(ConfigError, match="fastcnn has no bias, which a probe or fitted_head needs"):
        check(override(preset("smoke", digits.info), ["fitted_head=true"]), digits)


def test_of_many_images_a_part_is_enough(
    digits: PackedDataset, tiny_steps: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    whole = linear_head.features

    def look(*given: Any) -> torch.Tensor:
        seen.append(len(given[2]))
        return whole(*given)

    monkeypatch.setattr(linear_head, "features", look)
    monkeypatch.setattr(linear_head, "MOST_IMAGES", 400)
    monkeypatch.setattr(linear_head, "MOST_JUDGES", 100)
    assert _accuracies(override(tiny_steps, ["fitted_head=true"]), digits)[0] > 0.6
    assert 300 < seen[0] <= 400
    assert 60 < seen[1] <= 100
