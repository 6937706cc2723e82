"""An ensemble answers the mean of its members' logits in every engine, and is saved and loaded as others are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raycls.config import override
from raycls.data.packed import PackedDataset
from raycls.engines import build as engines
from raycls.errors import ConfigError
from raycls.models import checkpoint
from raycls.models.base import Network
from raycls.models.card import ENSEMBLE, ModelCard
from raycls.models.ensemble import combined
from raycls.models.forward import forward
from raycls.reports.attribution import cam_of, fed, spatial_layers
from raycls.training.presets import preset
from raycls.training.recipes import configured
from raycls.training.setup import card_for, untrained


@pytest.fixture
def members(digits: PackedDataset) -> list[tuple[Network, ModelCard]]:
    """Three networks of different kinds, statistics, temperatures and orders of classes."""
    torch.manual_seed(0)
    found = []
    for name, more in (
        ("fastcnn", {"temperature": 0.5}),
        ("cnn", {"mean": (0.2, 0.3, 0.4), "std": (0.5, 0.2, 0.3)}),
        ("mlp", {"classes": digits.info.classes[::-1], "temperature": 2.0}),
    ):
        settings = ["network.mirror=true"] if name == "cnn" else []
        config = override(preset("smoke", digits.info, name), settings)
        card = card_for(config, digits.info).model_copy(update=more)
        found.append((untrained(config, digits).eval(), card))
    return found


def _logits(network: Network, card: ModelCard, images: np.ndarray, classes: tuple[str, ...]) -> torch.Tensor:
    logits, _ = forward(network, torch.from_numpy(images), card, torch.float32)
    return logits[:, [card.classes.index(name) for name in classes]] / card.temperature


def test_the_answer_is_the_mean_of_the_members_and_survives_saving(
    members: list[tuple[Network, ModelCard]], digits: PackedDataset, tmp_path: Path
) -> None:
    images = np.array(digits.images("test")[:16])
    network, card = combined(members)
    assert (card.network, card.temperature) == (ENSEMBLE, 1.0)
    expected = torch.stack([_logits(*each, images, card.classes) for each in members]).mean(0)
    assert torch.allclose(_logits(network, card, images, card.classes), expected, atol=1e-4)
    checkpoint.save(tmp_path, network, card)
    again, same = checkpoint.load(tmp_path)
    assert torch.equal(
        _logits(again, same, images, card.classes), _logits(network, card, images, card.classes)
    )


@pytest.mark.parametrize("engine", ["torch", "openvino"])
def test_engines_run_it(members: list[tuple[Network, ModelCard]], digits: PackedDataset, engine: Any) -> None:
    network, card = combined(members)
    images = np.array(digits.images("test")[:16])
    logits, embeddings = engines.build(engine, network, card, "cpu")(images)
    expected = _logits(network, card, images, card.classes).numpy()
    assert np.abs(logits - expected).max() < 0.1 * np.abs(expected).max()
    assert embeddings.shape[1] == sum(each.head.in_features for each, _ in members)


def test_members_that_see_the_mirror_image_too_are_explained(
    members: list[tuple[Network, ModelCard]], digits: PackedDataset
) -> None:
    network, card = combined(members[:2])
    inputs = fed(network, card, np.array(digits.images("test")[:2]))
    cam = cam_of(network, card, spatial_layers(network, inputs))
    assert cam is not None
    assert cam.layer.name.startswith("members.1.")
    assert network.members[1].mirror  # type: ignore[index]


def test_versions_that_do_not_fit_together_are_refused(members: list[tuple[Network, ModelCard]]) -> None:
    (network, card), *_ = members
    for change, what in (
        ({"classes": ("cat", "dog")}, "classes"),
        ({"image_size": 16}, "an image size"),
        ({"resize": "pad"}, "a way of making images square"),
    ):
        with pytest.raises(ConfigError, match=what):
            combined([(network, card), (network, card.model_copy(update=change))])


def test_it_is_not_trained_further(members: list[tuple[Network, ModelCard]], digits: PackedDataset) -> None:
    _, card = combined(members)
    with pytest.raises(ConfigError, match="start from one of its members"):
        configured(digits.info, init=card)
