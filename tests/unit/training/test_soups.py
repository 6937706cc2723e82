"""The greedy rule mixes what was fine-tuned from the same weights, and keeps the best alone where that is better."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raycls.config import override
from raycls.data.packed import PackedDataset
from raycls.errors import ConfigError
from raycls.models import checkpoint
from raycls.models.card import ENSEMBLE, load_card
from raycls.registry import ModelVersion
from raycls.training.loop import fit
from raycls.training.presets import preset
from raycls.training.recipes import configured
from raycls.training.soups import Kitchen, Member, check


def _version(number: int, **tags: str) -> ModelVersion:
    return ModelVersion(
        name="pets",
        version=str(number),
        aliases=(),
        run_id="",
        uri="",
        sha256="",
        fingerprint="",
        metrics={},
        tags=tags,
    )


def _trained(dataset: PackedDataset, folder: Path, seed: int, **options: Any) -> Path:
    config = override(preset("smoke", dataset.info), ["epochs=3", f"training.seed={seed}"])
    if "init" in options:
        config = configured(
            dataset.info,
            "smoke",
            settings=[f"training.seed={seed}", "epochs=2"],
            init=load_card(options["init"]),
        )
    fit(config, dataset, on_epoch=lambda metrics, snapshot: snapshot.save(folder), **options)
    return folder


def _members(kitchen: Kitchen, folders: list[Path]) -> list[Member]:
    found = []
    for number, folder in enumerate(folders, start=1):
        network, _ = checkpoint.load(folder)
        found.append(Member(f"pets/{number}", network, kitchen.accuracy(network)))
    return sorted(found, key=lambda member: -member.accuracy)


def test_weights_of_one_start_mix_and_those_of_random_starts_do_not(
    digits: PackedDataset, directory: Path, tmp_path: Path
) -> None:
    kitchen = Kitchen(digits, load_card(directory))
    tuned = [_trained(digits, tmp_path / f"tuned-{seed}", seed, init=directory) for seed in (1, 2, 3)]
    members = _members(kitchen, tuned)
    mixture = kitchen.mixed([member.network for member in members])
    assert kitchen.accuracy(mixture) > members[0].accuracy - 0.03
    kept, accuracy, chosen = kitchen.greedy(members[::-1])
    assert accuracy == kitchen.accuracy(kept) >= members[0].accuracy
    assert chosen[0].accuracy == members[0].accuracy

    alone = [_trained(digits, tmp_path / f"alone-{seed}", seed) for seed in (4, 5, 6)]
    members = _members(kitchen, alone)
    assert kitchen.accuracy(kitchen.mixed([each.network for each in members])) < members[0].accuracy - 0.1
    kept, accuracy, chosen = kitchen.greedy(members[::-1])
    assert (kept, accuracy, len(chosen)) == (chosen[0].network, members[0].accuracy, 1)


def test_statistics_that_all_members_have_stay(digits: PackedDataset, directory: Path) -> None:
    kitchen = Kitchen(digits, load_card(directory))
    members = [checkpoint.load(directory)[0] for _ in range(2)]
    with torch.no_grad():
        members[0].head.weight.mul_(3)
    mixture = kitchen.mixed(members)
    assert all(torch.equal(mixture.state_dict()[key], value) for key, value in members[1].named_buffers())
    assert torch.allclose(mixture.head.weight, 2 * members[1].head.weight)


def test_the_statistics_of_batch_normalisation_are_those_of_the_mixture(
    digits: PackedDataset, directory: Path
) -> None:
    network, card = checkpoint.load(directory)
    spoiled, otherwise = (checkpoint.load(directory)[0] for _ in range(2))
    for change, each in ((5.0, spoiled), (4.0, otherwise)):
        for name, buffer in each.named_buffers():
            if name.endswith("running_mean"):
                buffer.add_(change)
    kitchen = Kitchen(digits, card)
    good = kitchen.accuracy(network)
    assert kitchen.accuracy(spoiled) < good - 0.3
    mixed = kitchen.mixed([spoiled, otherwise])
    assert kitchen.accuracy(mixed) > good - 0.05
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in mixed.named_parameters())
    assert not mixed.training


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"network": ENSEMBLE}, "is an ensemble"),
        ({"learned_splits": ("train", "val")}, "pets/2 learned val"),
        ({"network": "cnn"}, "another network than pets/1"),
        ({"arguments": {"widths": [1, 2, 3]}}, "another arguments"),
        ({"classes": ("cat", "dog")}, "another classes"),
        ({"mean": (0.1, 0.1, 0.1)}, "another mean"),
    ],
)
def test_what_cannot_be_mixed_is_refused(directory: Path, change: dict[str, Any], reason: str) -> None:
    card = load_card(directory)
    with pytest.raises(ConfigError, match=reason):
        check([card, card.model_copy(update=change)], [_version(1), _version(2)])


def test_dropout_changes_no_shape(directory: Path) -> None:
    card = load_card(directory)
    dropped = card.model_copy(update={"arguments": {**card.arguments, "dropout": 0.3}})
    check([card, dropped], [_version(1), _version(2)])
