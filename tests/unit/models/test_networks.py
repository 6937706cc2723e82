from __future__ import annotations

import copy
import dataclasses
import hashlib
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torchvision.models import MobileNet_V3_Small_Weights, get_model

from raycls.data.tensors import normalize
from raycls.errors import ConfigError, SourceError
from raycls.models.networks import NETWORKS, FastCNN, build, freeze_body
from raycls.models.torchvision_networks import LAST_LAYERS
from raycls.models.weights import load_weights

WIDTHS = {name: {} if name in LAST_LAYERS else {"widths": (8, 8)} for name in NETWORKS}


def _tiny(name: str, num_classes: int = 4, image_size: int = 16, dropout: float = 0.0) -> torch.nn.Module:
    return build(name, num_classes=num_classes, image_size=image_size, dropout=dropout, **WIDTHS[name])


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("size", "classes"), [(8, 10), (32, 3), (64, 5), (224, 2)])
def test_any_size_and_class_count_trains_every_weight(name: str, size: int, classes: int) -> None:
    network = _tiny(name, classes, size, dropout=0.1)
    logits = network(torch.rand(2, 3, size, size))
    assert logits.shape == (2, classes)
    logits.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters() if p.requires_grad)
    assert network.get_submodule("head").weight.shape[0] == classes


@pytest.mark.parametrize("name", NETWORKS)
def test_the_embedding_is_the_input_of_the_head(name: str) -> None:
    network = _tiny(name, dropout=0.5).eval()
    images, seen = torch.rand(3, 3, 16, 16), []
    network.head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    logits = network(images)
    embedding = network.embed(images)
    assert embedding.shape == (3, network.head.in_features)
    assert torch.equal(embedding, seen[0])
    assert torch.equal(network.classify(embedding), logits)
    assert embedding.std() > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_any_size_says_whether_a_network_takes_another_size(name: str) -> None:
    network = _tiny(name, image_size=32).eval()
    if network.any_size:
        assert network(torch.rand(2, 3, 24, 24)).shape == (2, 4)
    else:
        with pytest.raises(RuntimeError):
            network(torch.rand(2, 3, 24, 24))


@pytest.mark.parametrize("name", NETWORKS)
def test_dropout_acts_in_training_only(name: str) -> None:
    network = _tiny(name, dropout=0.5)
    images = torch.rand(3, 3, 16, 16)
    assert not torch.equal(network.train()(images), network(images))
    assert torch.equal(network.eval()(images), network(images))


def test_a_small_image_is_not_halved_away() -> None:
    def side(image_size: int) -> int:
        network = _tiny("resnet18", image_size=image_size).eval()
        seen = []
        network.get_submodule("body.layer4").register_forward_hook(
            lambda *args: seen.append(args[-1].shape[-1])
        )
        network(torch.rand(1, 3, image_size, image_size))
        return seen[0]

    assert (side(32), side(64), side(224)) == (2, 2, 7)


def test_whitening_decorrelates_patches_of_real_images() -> None:
    rng = np.random.default_rng(0)
    # Smooth images: neighbouring pixels are alike, as in photographs.
    coarse = torch.from_numpy(rng.normal(size=(200, 3, 8, 8))).float()
    images = torch.nn.functional.interpolate(coarse, scale_factor=4, mode="bilinear")
    network = FastCNN(num_classes=2, image_size=32, widths=(8,))
    network.init_whitening(images, eps=0.0)
    responses = torch.nn.functional.conv2d(images, network.whiten.weight)[:, :12]
    flat = responses.permute(1, 0, 2, 3).reshape(12, -1)
    covariance = flat @ flat.T / flat.shape[1]
    assert torch.allclose(covariance, torch.eye(12), atol=0.15)


def test_a_fresh_group_passes_its_input_on() -> None:
    network = FastCNN(num_classes=2, image_size=32, widths=(32,))
    convolution = network.groups[0].conv1
    x = torch.rand(1, 24, 31, 31)
    assert torch.allclose(convolution(x)[:, :24], x, atol=1e-6)


def test_unknown_names_and_arguments_are_reported() -> None:
    with pytest.raises(ConfigError, match="unknown network 'vgg'"):
        build("vgg", num_classes=2, image_size=32)
    with pytest.raises(ConfigError, match="not depth"):
        build("cnn", num_classes=2, image_size=32, depth=3)
    with pytest.raises(ConfigError, match=r"fixed shape and takes no widths: use --set widths=\[\]"):
        build("resnet18", num_classes=2, image_size=32, widths=(64,))


@pytest.mark.parametrize("name", ["mlp", "cnn", "fastcnn", "mobilenet_v3_small"])
def test_a_frozen_body_keeps_its_weights_and_statistics_while_the_head_learns(name: str) -> None:
    network = _tiny(name).train()
    learnable = {name for name, p in network.named_parameters() if p.requires_grad}
    before = copy.deepcopy(network.state_dict())

    def step() -> set[str]:
        trained = [p for p in network.parameters() if p.requires_grad]
        network(torch.rand(8, 3, 16, 16)).square().sum().backward()
        torch.optim.SGD(trained, lr=0.1).step()
        network.zero_grad()
        return {key for key, value in network.state_dict().items() if not torch.equal(value, before[key])}

    freeze_body(network, True)
    freeze_body(network, True)
    changed = step()
    assert changed
    assert all(key.startswith("head.") for key in changed)
    network.train()
    freeze_body(network, False)
    assert {name for name, p in network.named_parameters() if p.requires_grad} == learnable
    changed = step()
    statistics = {key for key in before if key.endswith("running_mean")}
    assert any(not key.startswith("head.") for key in changed & learnable)
    assert statistics <= changed
    assert not changed & {"whiten.weight", "groups.0.norm1.weight"}


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_b0", "mobilenet_v3_small"])
def test_torchvision_s_own_weights_fit_and_give_torchvision_s_own_features(name: str, tmp_path: Path) -> None:
    original = get_model(name, weights=None, num_classes=7).eval()
    torch.save(original.state_dict(), tmp_path / "weights.pth")
    images = torch.rand(2, 3, 64, 64)
    same, other = (_tiny(name, num_classes, 64).eval() for num_classes in (7, 4))
    head = other.get_submodule("head").weight.clone()
    for network in (same, other):
        load_weights(network, str(tmp_path / "weights.pth"))
    with torch.no_grad():
        assert torch.allclose(same(images), original(images), atol=1e-5)
        assert torch.allclose(other.get_submodule("body")(images), same.get_submodule("body")(images))
    assert torch.equal(other.get_submodule("head").weight, head)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_weights_of_our_networks_are_loaded_from_a_file(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    source, network = _tiny("fastcnn"), _tiny("fastcnn")
    weights = source.state_dict()
    torch.save(weights, path) if suffix == ".pt" else save_file(weights, path)
    load_weights(network, str(path))
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())


@pytest.mark.parametrize("name", ["fastcnn", "mlp", "resnet18"])
def test_with_mirror_the_logits_are_the_mean_of_both_views_and_it_learns_from_one(name: str) -> None:
    plain = _tiny(name).eval()
    both = build(name, num_classes=4, image_size=16, mirror=True, **WIDTHS[name])
    both.load_state_dict(plain.state_dict())
    images = torch.randn(2, 3, 16, 16)
    with torch.inference_mode():
        mean = (plain(images) + plain(images.flip(-1))) / 2
        assert torch.allclose(both.eval()(images), mean, atol=1e-5)
        assert not torch.allclose(both(images), plain(images), atol=1e-3)
        if name == "mlp":  # others have batch norms, whose statistics change
            assert torch.equal(both.train()(images), plain(images))


def test_weights_that_do_not_fit_are_named(tmp_path: Path) -> None:
    network = _tiny("cnn")
    path = tmp_path / "weights.pt"

    def refused(weights: object) -> str:
        torch.save(weights, path)
        with pytest.raises(ConfigError) as error:
            load_weights(network, str(path))
        assert "\n" not in str(error.value)
        return str(error.value)

    weights = network.state_dict()
    assert "the file has no layers.0.weight" in refused(
        {k: v for k, v in weights.items() if k != "layers.0.weight"}
    )
    assert "the network has no extra.bias" in refused({**weights, "extra.bias": torch.zeros(1)})
    assert "layers.0.weight" in refused({**weights, "layers.0.weight": torch.zeros(9, 3, 3, 3)})
    assert "not a state dict" in refused([1, 2])
    assert "other objects than tensors" in refused(Path)  # only tensors are unpickled
    path.write_bytes(b"")
    for wrong in (path, tmp_path / "absent.pt", tmp_path / "weights.onnx"):
        with pytest.raises(ConfigError, match=wrong.name) as error:
            load_weights(network, str(wrong))
        assert "\n" not in str(error.value)
    with pytest.raises(ConfigError, match="for torchvision's and timm's networks"):
        load_weights(network, "pretrained")


def test_imagenet_weights_come_from_torchvision_s_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = get_model("mobilenet_v3_small", weights=None).state_dict()
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    # A small stand-in for the real file. Its name holds the start of its hash, which torchvision checks.
    url = f"https://127.0.0.1:9/mobilenet_v3_small-{digest[:8]}.pth"
    entry = MobileNet_V3_Small_Weights.DEFAULT
    monkeypatch.setattr(entry, "_value_", dataclasses.replace(entry.value, url=url))
    network = _tiny("mobilenet_v3_small")
    with pytest.raises(
        SourceError, match=r"--weights PATH"
    ):  # no server listens there, and the cache is empty
        load_weights(network, "pretrained")
    cache = tmp_path / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    (cache / url.rsplit("/", 1)[1]).write_bytes(buffer.getvalue())
    load_weights(network, "pretrained")
    assert torch.equal(network.state_dict()["body.features.0.0.weight"], weights["features.0.0.weight"])


def test_normalize_is_the_textbook_formula_in_channels_last() -> None:
    images = torch.randint(0, 256, (4, 8, 8, 3), dtype=torch.uint8)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
    expected = (images.double() / 255 - torch.tensor(mean).double()) / torch.tensor(std).double()
    result = normalize(images, mean, std)
    assert torch.allclose(result.double(), expected.permute(0, 3, 1, 2), atol=1e-5)
    assert result.is_contiguous(memory_format=torch.channels_last)
