"""A run that starts from a pruned network keeps its shape, also when it is resumed."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycls.config import override
from raycls.data.packed import PackedDataset
from raycls.errors import ConfigError
from raycls.models import checkpoint
from raycls.models.card import load_card
from raycls.models.pruning import pruned
from raycls.training import loop
from raycls.training.presets import preset
from raycls.training.recipes import configured

NETWORK = "timm/test_resnet.r160_in1k"


@pytest.fixture(scope="module")
def start(digits: PackedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned network of a fixed shape, which its card describes by layer."""
    parent, smaller = tmp_path_factory.mktemp("parent"), tmp_path_factory.mktemp("pruned")
    config = override(preset("smoke", digits.info, NETWORK), ["epochs=1"])
    loop.fit(config, digits, on_epoch=lambda metrics, snapshot: snapshot.save(parent))
    checkpoint.save(smaller, *pruned(*checkpoint.load(parent), share=0.3))
    return smaller


def test_a_run_keeps_the_channels_that_it_starts_with(
    start: Path, digits: PackedDataset, tmp_path: Path
) -> None:
    channels = load_card(start).arguments["channels"]
    config = override(preset("smoke", digits.info, NETWORK), ["epochs=2", "precision=fp32"])
    first = loop.start(config, digits, init=start)
    assert isinstance(first, loop.Training)
    _, snapshot = next(first.epochs())
    snapshot.save(tmp_path)
    assert load_card(tmp_path).arguments["channels"] == channels
    again = loop.start(config, digits, resume=tmp_path)
    metrics, snapshot = next(again.epochs())
    assert metrics["epoch"] == 2
    snapshot.save(tmp_path / "second")
    network, card = checkpoint.load(tmp_path / "second")
    assert card.arguments["channels"] == channels
    assert network.head.in_features == channels["head"][0]


def test_the_recipe_is_that_of_a_trained_start(start: Path, digits: PackedDataset) -> None:
    card = load_card(start)
    config = configured(digits.info, init=card)
    assert config.network.name == NETWORK
    assert (config.optim.lr, config.training.fitted_head) == (1e-4, False)


def test_another_network_does_not_get_the_channels(start: Path, digits: PackedDataset) -> None:
    config = preset("smoke", digits.info, "cnn")
    with pytest.raises(ConfigError, match="the model to start from has"):
        loop.start(config, digits, init=start)
