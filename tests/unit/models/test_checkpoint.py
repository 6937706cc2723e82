from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from raycls.config import Config
from raycls.errors import CheckpointError
from raycls.models import checkpoint
from raycls.models.networks import build


def _saved(directory: Path) -> torch.nn.Module:
    arguments = {"widths": [8, 8], "dropout": 0.1}
    network = build("fastcnn", num_classes=2, image_size=16, widths=(8, 8), dropout=0.1)
    card = checkpoint.ModelCard(
        network="fastcnn", arguments=arguments, classes=("cat", "dog"), image_size=16,
        mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2), metrics={"val_accuracy": 0.5}, dataset="pets",
        dataset_fingerprint="f" * 64, config=Config().model_dump(mode="json"), seed=0, **checkpoint.provenance(),
    )  # fmt: skip
    checkpoint.save(directory, network, card)
    return network


def test_a_network_is_rebuilt_from_its_directory_alone(tmp_path: Path) -> None:
    network = _saved(tmp_path)
    loaded, card = checkpoint.load(tmp_path)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(loaded(images), network.eval()(images))
    assert card.classes == ("cat", "dog")
    assert card.libraries["torch"] == torch.__version__.split("+")[0]


def test_no_file_needs_unpickling(tmp_path: Path) -> None:
    _saved(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"model.safetensors", "model.json"}
    assert json.loads((tmp_path / "model.json").read_text())["network"] == "fastcnn"


@pytest.mark.parametrize("name", [checkpoint.WEIGHTS, checkpoint.CARD])
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
    first = checkpoint.sha256(tmp_path)
    assert first == checkpoint.sha256(tmp_path)
    checkpoint.update_metrics(tmp_path, {"test_accuracy": 0.4})
    second = checkpoint.sha256(tmp_path)
    weights = bytearray((tmp_path / checkpoint.WEIGHTS).read_bytes())
    weights[-1] ^= 1
    (tmp_path / checkpoint.WEIGHTS).write_bytes(weights)
    assert len({first, second, checkpoint.sha256(tmp_path)}) == 3
    assert checkpoint.load_card(tmp_path).metrics == {"val_accuracy": 0.5, "test_accuracy": 0.4}
