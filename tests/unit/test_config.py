from __future__ import annotations

from pathlib import Path

import pytest

from raycls.config import Config, override, validated
from raycls.data.packed import DatasetInfo
from raycls.data.versions import open_dataset
from raycls.errors import ConfigError
from raycls.serving.settings import ServingConfig
from raycls.training.presets import PRESETS, preset


@pytest.fixture(scope="module")
def digits(digits_home: Path) -> DatasetInfo:
    return open_dataset("digits").info


def _of_size(info: DatasetInfo, images: int) -> DatasetInfo:
    return info.model_copy(update={"counts": {**info.counts, "train": images}})


def test_fast_on_cifar10_is_the_measured_recipe(digits: DatasetInfo) -> None:
    config = preset("fast", _of_size(digits, 45_000))
    assert (config.network.name, config.network.widths) == ("fastcnn", (48, 128, 176))
    assert (config.training.epochs, config.training.batch_size, config.optim.lr) == (6, 1000, 0.24)


@pytest.mark.parametrize("network", ["mlp", "cnn", "resnet18"])
def test_networks_that_learn_by_adamw_take_more_and_smaller_steps(digits: DatasetInfo, network: str) -> None:
    config = preset("fast", _of_size(digits, 45_000), network)
    assert (config.optim.name, config.optim.lr, config.training.batch_size) == ("adamw", 0.001, 125)


def test_only_images_of_32_pixels_or_more_are_reduced(digits: DatasetInfo) -> None:
    assert preset("fast", digits).training.reduced_share == 0
    assert preset("fast", digits.model_copy(update={"image_size": 32})).training.reduced_share > 0


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("network", ["mlp", "cnn", "fastcnn", "resnet18"])
def test_small_datasets_get_smaller_batches_and_more_passes(
    digits: DatasetInfo, name: str, network: str
) -> None:
    small, large = (preset(name, _of_size(digits, n), network) for n in (500, 45_000))
    assert small.training.batch_size < large.training.batch_size
    assert small.training.epochs > large.training.epochs or name in ("smoke", "probe")
    assert small.network == large.network


def test_a_batch_is_never_more_than_the_images(digits: DatasetInfo) -> None:
    assert preset("fast", _of_size(digits, 7)).training.batch_size == 7


def test_larger_images_get_smaller_batches(digits: DatasetInfo) -> None:
    many = _of_size(digits, 45_000)
    sizes = [
        preset("fast", many.model_copy(update={"image_size": side})).training.batch_size
        for side in (32, 64, 128, 224)
    ]
    assert sizes == [1000, 500, 125, 40]


def test_digits_are_not_mirrored(digits: DatasetInfo) -> None:
    assert not preset("fast", digits).augment.flip


def test_override_takes_paths_and_unique_names(digits: DatasetInfo) -> None:
    config = override(
        preset("fast", digits), ["optim.lr=0.5", "dropout=0.25", "widths=[8,8]", "precision=fp32"]
    )
    assert (config.optim.lr, config.network.dropout, config.network.widths) == (0.5, 0.25, (8, 8))
    assert config.training.precision == "fp32"
    assert config.training.epochs == preset("fast", digits).training.epochs


def test_another_optimiser_brings_its_own_rate(digits: DatasetInfo) -> None:
    config = preset("fast", digits)
    assert override(config, ["optim.name=adamw"]).optim.lr == 0.001
    assert override(config, ["optim.name=sgd", "lr=0.3"]).optim.lr == 0.3
    assert override(override(config, ["lr=0.3"]), ["optim.name=muon"]).optim.lr == 0.3
    assert override(preset("fast", digits, "cnn"), ["optim.name=muon"]).optim.lr == 0.24


def test_another_optimiser_keeps_no_setting_of_the_former(digits: DatasetInfo) -> None:
    def settings(*assignments: str) -> tuple[float, ...]:
        optim = override(preset("fast", digits), assignments).optim
        return optim.lr, optim.weight_decay, optim.label_smoothing

    assert settings("optim.name=sgd") == (0.1, 5e-4, 0.1)
    assert settings("optim.name=adam") == (1e-3, 0, 0.1)
    assert settings("optim.name=adamw") == (1e-3, 0.015, 0.1)
    assert settings("weight_decay=0.3", "optim.name=sgd") == (0.1, 0.3, 0.1)


@pytest.mark.parametrize(
    ("assignment", "told"),
    [
        ("lr=-1", "optim.lr"),
        ("lr=11", "optim.lr"),
        ("lr=nan", "optim.lr"),
        ("lr=fast", "optim.lr"),
        ("dropout=1.0", "network.dropout"),
        ("dropout=-0.1", "network.dropout"),
        ("epochs=0", "training.epochs"),
        ("epochs=2.5", "training.epochs"),
        ("batch_size=1", "training.batch_size"),
        ("widths=[0]", "network.widths"),
        ("name=muon", "unknown setting"),  # two sections have a name, so the section is needed
        ("nope=1", "unknown setting"),
        ("lr", "not key=value"),
    ],
)
def test_a_wrong_override_is_one_line_that_names_the_field(assignment: str, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        override(Config(), [assignment])
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_unknown_preset_and_network_name_the_known_ones(digits: DatasetInfo) -> None:
    with pytest.raises(ConfigError, match="smoke, probe, quick, fast, strong, accurate"):
        preset("best", digits)
    with pytest.raises(ConfigError, match="mlp, cnn, fastcnn, resnet18"):
        preset("fast", digits, "resnet19")


def test_a_config_survives_json_and_cannot_be_changed() -> None:
    config = override(Config(), ["lr=0.1"])
    assert Config.model_validate_json(config.model_dump_json()) == config
    with pytest.raises(ValueError, match="frozen"):
        config.optim.lr = 1.0  # type: ignore[misc]


def test_serving_arguments_are_validated() -> None:
    with pytest.raises(ConfigError, match="max_batch_size"):
        validated(ServingConfig, {"max_batch_size": 0})
    with pytest.raises(ConfigError, match="models"):
        validated(ServingConfig, {"models": "cifar10"})
