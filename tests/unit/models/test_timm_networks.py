"""timm's networks by name: their shapes, their stages, and weights from a file and from a cache."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file

from raycls.data.packed import PackedDataset
from raycls.engines import build as engines
from raycls.errors import ConfigError, SourceError
from raycls.models import checkpoint
from raycls.models.networks import build, check_name, has_public_weights, public_statistics
from raycls.models.timm_networks import TimmNetwork
from raycls.models.weights import load_weights
from raycls.training.presets import preset
from raycls.training.setup import card_for

# timm's own small ones, of each kind.
NAMES = [
    f"timm/test_{kind}.r160_in1k"
    for kind in ("byobnet", "convnext", "efficientnet", "nfnet", "resnet", "vit")
]
VIT, CONVNEXT = "timm/test_vit.r160_in1k", "timm/test_convnext.r160_in1k"


def _built(name: str, size: int = 96) -> TimmNetwork:
    network = build(name, num_classes=4, image_size=size, dropout=0.1)
    assert isinstance(network, TimmNetwork)
    return network


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [32, 96])
def test_each_kind_gives_the_head_what_it_takes_and_its_stages_are_the_whole_body(
    name: str, size: int
) -> None:
    network = _built(name, size).eval()
    images = torch.randn(2, 3, size, size)
    with torch.inference_mode():
        embedding = network.embed(images)
        assert network.classify(embedding).shape == (2, 4)
    assert embedding.shape == (2, network.head.in_features)
    staged = [id(parameter) for stage in network.stages() for parameter in stage]
    assert sorted(staged) == sorted(id(parameter) for parameter in network.body.parameters())
    assert len(network.stages()) > 1


@pytest.mark.parametrize("name", [VIT, CONVNEXT, "timm/test_efficientnet.r160_in1k"])
def test_openvino_runs_it(name: str, digits: PackedDataset) -> None:
    info = digits.info.model_copy(update={"image_size": 96})
    config = preset("smoke", info, name)
    card = card_for(config, info)
    network = build(name, num_classes=len(info.classes), image_size=96).eval()
    images = np.random.default_rng(0).integers(0, 256, (5, 96, 96, 3), dtype=np.uint8)
    expected = engines.build("reference", network, card, "cpu")(images)
    found = engines.build("openvino", network, card, "cpu")(images)
    for own, other in zip(found, expected, strict=True):
        assert np.abs(own - other).max() < 0.1 * np.abs(other).max()


def test_the_first_stage_is_next_to_the_image() -> None:
    network = _built(CONVNEXT)
    first = {id(parameter) for parameter in network.stages()[0]}
    assert {id(parameter) for parameter in network.body.stem.parameters()} <= first


@pytest.mark.parametrize("name", ["timm/poolformer_s12", "timm/rdnet_tiny"])
def test_a_network_whose_stages_timm_does_not_know_has_one_or_its_blocks(name: str) -> None:
    network = _built(name, 64)
    staged = sum(len(stage) for stage in network.stages())
    assert staged == len(list(network.body.parameters()))


def test_a_network_of_a_fixed_size_keeps_its_first_stride() -> None:
    network = _built("timm/levit_128s", 32).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 4)


def test_another_image_size_keeps_a_transformer_s_positions(digits: PackedDataset, tmp_path: Path) -> None:
    networks, cards = [], []
    for side in (96, 64):
        info = digits.info.model_copy(update={"image_size": side})
        cards.append(card_for(preset("smoke", info, VIT), info))
        networks.append(cards[-1].build().eval())
    checkpoint.save(tmp_path, networks[0], cards[0])
    assert checkpoint.transfer(networks[1], cards[1], tmp_path) == []
    before, after = (network.get_parameter("body.pos_embed") for network in networks)
    assert before.shape != after.shape
    assert torch.allclose(before.mean(1), after.mean(1), atol=0.01)  # resampled, and not random


def test_modules_that_are_used_twice_can_be_saved(digits: PackedDataset, tmp_path: Path) -> None:
    info = digits.info.model_copy(update={"image_size": 32})
    card = card_for(preset("smoke", info, "timm/coat_lite_tiny"), info)
    network = card.build()
    checkpoint.save(tmp_path, network, card)
    again, _ = checkpoint.load(tmp_path)
    for own, other in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(own, other)


def test_a_name_that_timm_does_not_have_is_refused_with_names_that_it_has() -> None:
    with pytest.raises(
        ConfigError, match=r"timm has no network 'convnext_tiny.nope'; it has timm/convnext_tiny"
    ):
        check_name("timm/convnext_tiny.nope")
    with pytest.raises(ConfigError, match=r"it has timm/convnext_.*raycls networks"):
        check_name("timm/convnext_huge")
    with pytest.raises(ConfigError, match="takes no widths"):
        build(VIT, num_classes=2, image_size=96, widths=(8,))


def test_each_network_s_own_statistics_are_known() -> None:
    assert public_statistics("timm/tf_efficientnet_lite0.in1k") == ((0.5,) * 3, (0.5,) * 3)
    assert public_statistics("resnet18")[0] == (0.485, 0.456, 0.406)
    assert has_public_weights(VIT)
    assert not has_public_weights("fastcnn")
    with pytest.raises(ConfigError, match="statistics=dataset"):
        public_statistics("fastcnn")


@pytest.mark.parametrize("name", [VIT, CONVNEXT])
def test_weights_with_timm_s_names_are_taken_without_their_head_and_for_another_size(
    name: str, tmp_path: Path
) -> None:
    source = timm.create_model(name.removeprefix("timm/"))  # of 160 pixels, with 1,000 classes
    file = tmp_path / "weights.safetensors"
    save_file({key: value.contiguous() for key, value in source.state_dict().items()}, file)
    network = _built(name, 96)
    load_weights(network, str(file))
    same = dict(network.body.named_parameters())
    for key, value in source.named_parameters():
        if key in same and same[key].shape == value.shape:
            assert torch.equal(same[key], value), key
    if name == VIT:
        assert same["pos_embed"].shape != source.pos_embed.shape


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    save_file({"conv.weight": torch.zeros(3)}, file)
    with pytest.raises(ConfigError, match=f"the weights are not those of {CONVNEXT}"):
        load_weights(_built(CONVNEXT), str(file))


def test_a_hub_that_does_not_answer_is_said_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(SourceError, match="--weights PATH, or begin with random weights: --weights none"):
        load_weights(_built(VIT), "pretrained")
