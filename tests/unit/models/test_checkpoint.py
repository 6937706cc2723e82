from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from raycls.config import Config
from raycls.errors import CheckpointError, ConfigError
from raycls.models import checkpoint
from raycls.models.card import CARD, WEIGHTS, ModelCard, load_card, provenance, sha256, update_card


def _card(network: str = "fastcnn", **changes: Any) -> ModelCard:
    card = ModelCard(
        network=network, arguments={"widths": [8, 8], "dropout": 0.1}, classes=("cat", "dog"), image_size=16,
        mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), metrics={"val_accuracy": 0.5}, dataset="pets",
        dataset_fingerprint="f" * 64, config=Config().model_dump(mode="json"), seed=0, **provenance(),
    )  # fmt: skip
    return card.model_copy(update=changes)


def _saved(directory: Path, network: str = "fastcnn", **changes: Any) -> torch.nn.Module:
    card = _card(network, **changes)
    made = card.build()
    checkpoint.save(directory, made, card)
    return made


@pytest.mark.parametrize("name", ["mlp", "cnn", "fastcnn"])
def test_a_network_is_rebuilt_from_its_directory_alone(tmp_path: Path, name: str) -> None:
    network = _saved(tmp_path, name)
    loaded, card = checkpoint.load(tmp_path)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(images), network.eval()(images))
    assert card.classes == ("cat", "dog")
    assert card.libraries["torch"] == torch.__version__.split("+")[0]


def test_no_file_needs_unpickling(tmp_path: Path) -> None:
    _saved(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "model.json"}
    assert json.loads((tmp_path / "model.json").read_text())["network"] == "fastcnn"


@pytest.mark.parametrize("name", [WEIGHTS, CARD])
@pytest.mark.parametrize("damage", ["missing", "truncated", "garbage"])
def test_damage_is_one_clear_error(tmp_path: Path, name: str, damage: str) -> None:
    _saved(tmp_path)
    path = tmp_path / name
    if damage == "missing":
        path.unlink()
    elif damage == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        path.write_bytes(b"\x80\x04garbage")
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as error:
        checkpoint.load(tmp_path)
    assert "\n" not in str(error.value)


def test_the_digest_changes_with_weights_and_card(tmp_path: Path) -> None:
    _saved(tmp_path)
    first = sha256(tmp_path)
    assert first == sha256(tmp_path)
    update_card(tmp_path, metrics={"test_accuracy": 0.4})
    second = sha256(tmp_path)
    weights = bytearray((tmp_path / WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (tmp_path / WEIGHTS).write_bytes(weights)
    assert len({first, second, sha256(tmp_path)}) == 3
    assert load_card(tmp_path).metrics == {"val_accuracy": 0.5, "test_accuracy": 0.4}


def test_a_card_without_a_temperature_is_of_temperature_1(tmp_path: Path) -> None:
    _saved(tmp_path)
    document = json.loads((tmp_path / CARD).read_text())
    del document["temperature"]
    (tmp_path / CARD).write_text(json.dumps(document))
    assert load_card(tmp_path).temperature == 1.0
    update_card(tmp_path, metrics={}, temperature=0.7)
    assert update_card(tmp_path, metrics={"test_accuracy": 0.4}).temperature == 0.7
    assert load_card(tmp_path).temperature == 0.7


def test_a_network_of_fixed_shape_has_no_widths(tmp_path: Path) -> None:
    network = _saved(tmp_path, "mobilenet_v3_small", arguments={"dropout": 0.1})
    loaded, _ = checkpoint.load(tmp_path)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(images), network.eval()(images))


# In the second case, a cnn pools three times at 8 pixels, and five times at the new network's 32 pixels.
@pytest.mark.parametrize("name", ["mlp", "cnn", "fastcnn"])
@pytest.mark.parametrize(("size", "widths"), [(16, [8, 8]), (8, [8, 8, 8, 8, 8])])
def test_fine_tuning_starts_from_everything_but_the_rows_of_new_classes(
    tmp_path: Path, name: str, size: int, widths: list[int]
) -> None:
    arguments = {"widths": widths, "dropout": 0.0}
    source = _saved(tmp_path, name, arguments=arguments, image_size=size)
    card = _card(name, arguments=arguments, image_size=32, classes=("bird", "dog", "cat"))
    network = card.build()
    drawn = network.get_submodule("head").weight.clone()
    fresh = checkpoint.transfer(network, card, tmp_path)
    head, old = network.get_submodule("head"), source.get_submodule("head")
    assert fresh == [f"head.{name}" for name, _ in head.named_parameters()]
    assert torch.equal(head.weight[1], old.weight[1])
    assert torch.equal(head.weight[2], old.weight[0])
    assert torch.equal(head.weight[0], drawn[0])
    copied = zip(network.state_dict().items(), source.state_dict().values(), strict=True)
    for (key, value), before in copied:
        assert key.startswith("head.") or key == "layers.1.weight" or torch.equal(value, before)


def test_an_mlp_answers_a_resized_picture_as_it_did_the_original(tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = _saved(tmp_path, "mlp").eval()
    card = _card("mlp", image_size=32)
    network = card.build().eval()
    assert checkpoint.transfer(network, card, tmp_path) == []
    # The pictures are smooth like photographs, so a larger picture interpolates its pixels.
    pictures = torch.nn.functional.interpolate(torch.randn(50, 3, 4, 4), 16, mode="bicubic")
    larger = torch.nn.functional.interpolate(pictures, 32, mode="bilinear")
    with torch.no_grad():
        expected, answers = source(pictures), network(larger)
    assert (answers - expected).std() < 0.2 * expected.std()
    same = _card("mlp").build().eval()
    checkpoint.transfer(same, _card("mlp"), tmp_path)
    assert torch.equal(same(pictures), source(pictures))


def test_patches_of_another_size_stay_fresh(tmp_path: Path) -> None:
    _saved(tmp_path)
    card = _card(image_size=224)
    assert checkpoint.transfer(card.build(), card, tmp_path) == [
        "whiten.weight",
        "whiten.bias",
        "groups.0.conv1.weight",
    ]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"network": "cnn"},
            r"to start from has --network fastcnn --set widths=\[8, 8\], but this run has --network cnn",
        ),
        ({"arguments": {"widths": [8, 16]}}, r"this run has --network fastcnn --set widths=\[8, 16\]"),
        ({"network": "resnet18", "arguments": {}}, r"this run has --network resnet18: use --network fastcnn"),
    ],
)
def test_another_network_cannot_be_fine_tuned(tmp_path: Path, changes: dict[str, Any], told: str) -> None:
    _saved(tmp_path)
    card = _card(**changes)
    with pytest.raises(ConfigError, match=told):
        checkpoint.transfer(card.build(), card, tmp_path)
