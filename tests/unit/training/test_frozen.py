"""Frozen stages: computed once, they give what the whole network gives, their weights stay, and the others learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from raycls.config import Config, override
from raycls.data.packed import PackedDataset
from raycls.data.tensors import normalize
from raycls.errors import ConfigError
from raycls.models.networks import build
from raycls.training.frozen import FrozenStages
from raycls.training.loop import start
from raycls.training.presets import preset
from raycls.training.sampling import Split
from raycls.training.setup import card_for, check
from raycls.training.snapshot import Snapshot
from raycls.training.workers import Workers

SIDE = 64
NAMES = {
    "resnet18": 4,
    "mobilenet_v3_small": 5,
    "efficientnet_b0": 3,
    "timm/test_convnext.r160_in1k": 2,
    "timm/test_efficientnet.r160_in1k": 3,
    "timm/test_vit.r160_in1k": 3,
}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory, digits_home: Path) -> PackedDataset:
    """40 images of 64 pixels in two classes: dark and bright noise."""
    from raycls.data.versions import open_dataset

    info = open_dataset("digits").info
    folder = tmp_path_factory.mktemp("photographs")
    random = np.random.default_rng(0)
    counts = {"train": 32, "val": 8}
    for split, count in counts.items():
        labels = np.arange(count) % 2
        images = random.integers(0, 128, (count, SIDE, SIDE, 3)) + 127 * labels[:, None, None, None]
        (folder / split).mkdir()
        np.save(folder / split / "labels.npy", labels.astype(np.int64))
        np.save(folder / split / "images.npy", images.astype(np.uint8))
    change = {"counts": counts, "image_size": SIDE, "classes": ("dark", "bright"), "mirrorable": True}
    return PackedDataset(folder, info.model_copy(update=change))


def _config(dataset: PackedDataset, name: str, *settings: str) -> Config:
    fixed = [
        "batch_size=8",
        "translate=0",
        "reduced_share=0",
        "epochs=2",
        "training.precision=fp32",
        "lr=0.001",
    ]
    return override(
        preset("smoke", dataset.info, name), [*fixed, f"frozen_stages={NAMES.get(name, 1)}", *settings]
    )


@pytest.mark.parametrize("name", NAMES)
def test_what_is_kept_gives_the_answers_of_the_whole_network(name: str, photographs: PackedDataset) -> None:
    config = _config(photographs, name)
    check(config, photographs)
    card = card_for(config, photographs.info)
    network = build(name, num_classes=2, image_size=SIDE)
    train = Split(photographs, "train", torch.device("cpu"), 20)
    frozen = FrozenStages(network, NAMES[name], train, card, torch.float32, Workers(), mirrored=True)
    network.eval()
    indices = train.chosen[:6]
    mirrored = torch.tensor([True, False] * 3)
    with torch.no_grad():
        inputs = normalize(train.images[indices], card.mean, card.std)
        inputs = torch.where(mirrored[:, None, None, None], inputs.flip(-1), inputs)
        assert torch.allclose(frozen.logits(network, indices, mirrored), network(inputs), atol=1e-4)
        assert torch.allclose(
            frozen.logits(network, indices, None),
            network(normalize(train.images[indices], card.mean, card.std)),
            atol=1e-4,
        )


@pytest.mark.parametrize("name", ["resnet18", "timm/test_vit.r160_in1k"])
def test_frozen_weights_and_statistics_stay_and_the_others_learn(
    name: str, photographs: PackedDataset, tmp_path: Path
) -> None:
    config = _config(photographs, name, "frozen_epochs=1")
    training = start(config, photographs)
    before = {key: value.clone() for key, value in training.kept.state_dict().items()}
    stages = training.kept.stages()
    frozen = {id(parameter) for stage in stages[: NAMES[name]] for parameter in stage}
    names = {key for key, value in training.kept.named_parameters() if id(value) in frozen}
    found: list[tuple[dict[str, float], Snapshot]] = list(training.epochs())
    assert [metrics["epoch"] for metrics, _ in found] == [1, 2]
    for key, value in training.kept.state_dict().items():
        of_frozen = key in names or ("running" in key and f"{key.rpartition('.')[0]}.weight" in names)
        if of_frozen:
            assert torch.equal(value, before[key]), key
    changed = [key for key in before if not torch.equal(before[key], training.kept.state_dict()[key])]
    assert any(not key.startswith("head.") for key in changed)


def test_a_resumed_run_goes_on_with_the_same_stages(photographs: PackedDataset, tmp_path: Path) -> None:
    config = _config(photographs, "resnet18")
    whole = start(config, photographs)
    for metrics, snapshot in whole.epochs():
        if metrics["epoch"] == 1:
            snapshot.save(tmp_path)
    resumed = start(config, photographs, resume=tmp_path)
    list(resumed.epochs())
    for key, value in whole.kept.state_dict().items():
        assert torch.equal(value, resumed.kept.state_dict()[key]), key


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("resnet18", ["frozen_stages=6"], "has 6 stages, and the last one has to learn"),
        ("fastcnn", ["frozen_stages=1"], "stages"),
        ("timm/test_vit.r160_in1k", ["frozen_stages=1"], "cannot be frozen after 1 stages"),
        ("resnet18", ["rotate=10", "mixup=0.2"], "rotate, mixup must be off"),
        ("resnet18", ["reduced_share=0.5"], "reduced_share must be off"),
    ],
)
def test_what_cannot_be_frozen_is_said(
    name: str, settings: list[str], reason: str, photographs: PackedDataset
) -> None:
    with pytest.raises(ConfigError, match=reason):
        check(_config(photographs, name, *settings), photographs)


def test_memory_that_does_not_hold_them_is_said(
    photographs: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raycls.training import frozen

    monkeypatch.setattr(frozen, "MEMORY_SHARE", 1e-9)
    with pytest.raises(ConfigError, match=r"keeps 0.0 GB for 32 images"):
        start(_config(photographs, "resnet18"), photographs)
