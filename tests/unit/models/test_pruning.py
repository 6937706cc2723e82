"""Smaller networks of trained ones, rebuilt from their directories without the library that chose the channels."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raycls.data.packed import PackedDataset
from raycls.engines import build as engines
from raycls.engines.predictor import Predictor
from raycls.errors import ConfigError, UsageError
from raycls.models import checkpoint
from raycls.models.base import Network
from raycls.models.card import ModelCard, provenance
from raycls.models.channels import channels_of, narrow
from raycls.models.ensemble import combined
from raycls.models.macs import macs
from raycls.models.pruning import pruned

SIDE = 64
RESNET, CONVNEXT = "timm/test_resnet.r160_in1k", "timm/test_convnext.r160_in1k"
OTHERS = (RESNET, CONVNEXT, "timm/test_vit.r160_in1k", "mobilenet_v3_small")


def card_of(network: str, **arguments: Any) -> ModelCard:
    return ModelCard(
        network=network, arguments=arguments, classes=("cat", "dog", "owl"), image_size=SIDE,
        mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), metrics={"test_accuracy": 0.9}, temperature=0.7, dataset="pets",
        dataset_fingerprint="f" * 64, config={}, seed=0, **provenance(),
    )  # fmt: skip


def made(network: str, **arguments: Any) -> tuple[Network, ModelCard]:
    torch.manual_seed(0)
    card = card_of(network, **arguments)
    return card.build().eval(), card


@pytest.mark.parametrize("name", ["mlp", "cnn", "fastcnn"])
def test_raycls_own_networks_get_other_widths(name: str) -> None:
    network, card = made(name, widths=[32, 64, 64], dropout=0.1)
    smaller, described = pruned(network, card, share=0.5)
    first, second, third = described.arguments["widths"]
    assert second == third < 64
    assert first < 32
    assert described.arguments.keys() == {"widths", "dropout"}
    assert 0.3 < macs(smaller, SIDE) / macs(network, SIDE) <= 0.5
    assert (described.metrics, described.temperature) == ({}, 1.0)
    _, of_default = pruned(*made(name), share=0.5)  # of the network's own widths
    assert len(of_default.arguments["widths"]) in (2, 3)


@pytest.mark.parametrize("name", ["fastcnn", *OTHERS])
def test_code_and_files_give_the_pruned_network_without_the_library(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, card = made(name, mirror=True, **({"widths": [32, 64]} if name == "fastcnn" else {}))
    smaller, described = pruned(network, card, share=0.3)
    assert macs(smaller, SIDE) <= 0.7 * macs(network, SIDE)
    checkpoint.save(tmp_path, smaller, described)
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    loaded, read = checkpoint.load(tmp_path)
    images = torch.rand(2, 3, SIDE, SIDE)
    torch.testing.assert_close(loaded(images), smaller(images), rtol=1e-4, atol=1e-4)
    assert loaded.mirror
    assert loaded.embed(images).shape[1] == loaded.head.in_features
    assert ("channels" in read.arguments) == (name != "fastcnn")
    trains = {parameter.requires_grad for parameter in network.parameters()}
    assert {parameter.requires_grad for parameter in smaller.parameters()} == trains


def test_channels_of_small_magnitude_go(digits: PackedDataset, directory: Path, tmp_path: Path) -> None:
    network, card = checkpoint.load(directory)
    smaller, described = pruned(network, card, share=0.2)
    checkpoint.save(tmp_path, smaller, described)
    images, labels = np.array(digits.images("test")), digits.labels("test")

    def accuracy(folder: Path) -> float:
        return float((Predictor.load(folder).logits(images).argmax(1) == labels).mean())

    assert accuracy(tmp_path) > 0.3  # random weights find one of ten
    logits, embeddings = engines.load("openvino", tmp_path, "cpu", threads=1)(images[:9])
    assert embeddings.shape == (9, described.arguments["widths"][-1])
    assert np.abs(logits - engines.load("reference", tmp_path, "cpu")(images[:9])[0]).max() < 0.5


def test_a_pruned_network_is_pruned_again() -> None:
    network, card = made(RESNET)
    once, first = pruned(network, card, share=0.3)
    twice, second = pruned(once, first, share=0.3)
    assert macs(twice, SIDE) <= 0.7 * macs(once, SIDE)
    assert first.arguments["channels"].keys() == second.arguments["channels"].keys()


def test_new_classes_and_sizes_start_from_a_pruned_network(tmp_path: Path) -> None:
    for name in (RESNET, CONVNEXT):
        smaller, card = pruned(*made(name), share=0.3)
        checkpoint.save(tmp_path, smaller, card)
        other = card.model_copy(update={"classes": ("owl", "cat", "eel", "emu"), "image_size": 96})
        network = other.build()
        assert network.head.out_features == 4
        assert checkpoint.transfer(network, other, tmp_path) == ["head.weight", "head.bias"]
        assert torch.equal(network.head.weight[0], smaller.head.weight[2])
        images = torch.rand(1, 3, 96, 96)
        found, expected = network.eval().embed(images), smaller.embed(images)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_pruned_network_is_a_member_of_an_ensemble() -> None:
    member = pruned(*made(RESNET), share=0.3)
    network, card = combined([member, made("cnn")])
    again = ModelCard.model_validate_json(card.model_dump_json()).build()
    again.load_state_dict(network.state_dict())
    with pytest.raises(ConfigError, match="prune versions of which it could be made"):
        pruned(network, card, share=0.5)


@pytest.mark.parametrize("share", [0.0, 1.0, -1.0, 3.0, float("nan")])
def test_a_share_is_between_0_and_1(share: float) -> None:
    with pytest.raises(ConfigError, match=r"such as 0\.5"):
        pruned(*made("cnn"), share=share)


def test_more_than_the_narrowest_layer_has_cannot_go() -> None:
    with pytest.raises(ConfigError, match=r"can lose 74% of its multiplications at most"):
        pruned(*made(RESNET), share=0.999)


def test_the_library_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'raycls\[prune\]'"):
        pruned(*made("cnn"), share=0.5)


def test_a_description_of_another_network_is_refused() -> None:
    smaller, card = pruned(*made(RESNET), share=0.3)
    assert channels_of(smaller, card_of(RESNET).build()) == {
        name: tuple(sizes)
        for name, sizes in json.loads(card.model_dump_json())["arguments"]["channels"].items()
    }
    with pytest.raises(ConfigError, match=r"has no layer body\.conv"):
        narrow(card_of("cnn").build(), card.arguments["channels"])
