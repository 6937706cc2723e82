"""The configuration follows from how the weights start, and a setting of one's own wins."""

from __future__ import annotations

from typing import Any

import pytest

from raycls.config import Config
from raycls.data.packed import DatasetInfo
from raycls.data.versions import open_dataset
from raycls.errors import ConfigError
from raycls.models.card import ModelCard
from raycls.training.presets import preset
from raycls.training.recipes import configured
from raycls.training.setup import card_for


@pytest.fixture(scope="module")
def info(digits_home: Any) -> DatasetInfo:
    return open_dataset("digits").info.model_copy(update={"image_size": 32})


@pytest.fixture(scope="module")
def parent(info: DatasetInfo) -> ModelCard:
    return card_for(configured(info, settings=["widths=[8,16]"]), info)


def test_random_weights_get_the_preset(info: DatasetInfo) -> None:
    assert configured(info, "quick") == preset("quick", info)
    assert configured(info, network="cnn", settings=["lr=0.5"]).optim.lr == 0.5


def test_trained_weights_get_small_steps_and_their_own_network(info: DatasetInfo, parent: ModelCard) -> None:
    scratch, tuned = configured(info), configured(info, init=parent)
    assert tuned.network.widths == (8, 16)
    assert tuned.optim.lr == pytest.approx(scratch.optim.lr / 10)
    assert (scratch.optim.warmup, tuned.optim.warmup) == (0, 0.1)
    assert (scratch.training.reduced_share > 0, tuned.training.reduced_share) == (True, 0)
    assert tuned.optim.head_lr_factor == 1
    assert Config.model_validate_json(tuned.model_dump_json()) == tuned


def test_new_classes_learn_with_the_rate_of_random_weights(info: DatasetInfo, parent: ModelCard) -> None:
    fewer = configured(info.model_copy(update={"classes": info.classes[1:]}), init=parent)
    other = configured(info.model_copy(update={"classes": ("cat", *info.classes[1:])}), init=parent)
    assert fewer.optim.head_lr_factor == 1
    assert other.optim.lr * other.optim.head_lr_factor == pytest.approx(configured(info).optim.lr)


@pytest.mark.parametrize(("fraction", "share"), [(1.0, 0.1), (0.9, 0.1), (0.5, 1.0)])
def test_many_new_images_get_the_whole_rate(info: DatasetInfo, fraction: float, share: float) -> None:
    parent = card_for(configured(info, settings=[f"train_fraction={fraction}"]), info)
    assert configured(info, init=parent).optim.lr == pytest.approx(share * configured(info).optim.lr)
    other = parent.model_copy(update={"dataset": "other"})
    assert configured(info, init=other).optim.lr == pytest.approx(configured(info).optim.lr / 10)


def test_a_version_that_has_grown_has_new_images(info: DatasetInfo, parent: ModelCard) -> None:
    for growth, share in ((1.2, 0.1), (2, 1.0)):
        counts = {**info.counts, "train": int(growth * info.counts["train"])}
        grown = info.model_copy(update={"version": 2, "counts": counts})
        scratch = configured(grown)
        assert configured(grown, init=parent).optim.lr == pytest.approx(share * scratch.optim.lr)


def test_a_setting_wins(info: DatasetInfo, parent: ModelCard) -> None:
    tuned = configured(info, init=parent, settings=["lr=0.3", "training.reduced_share=0.5"])
    assert (tuned.optim.lr, tuned.training.reduced_share, tuned.optim.warmup) == (0.3, 0.5, 0.1)
    adamw = configured(info, init=parent, settings=["optim.name=adamw"])
    assert adamw.optim.lr == pytest.approx(1e-4)


def test_first_layers_that_start_anew_need_the_rates_of_random_weights(
    info: DatasetInfo, parent: ModelCard
) -> None:
    large = info.model_copy(update={"image_size": 224})
    settings = ["widths=[8,16]"]
    assert configured(large, init=parent).optim == configured(large, settings=settings).optim
    mlp = card_for(configured(info, network="mlp"), info)
    larger = info.model_copy(update={"image_size": 64})
    assert configured(larger, init=mlp).optim.lr == pytest.approx(1e-4)  # an mlp is resampled


def test_weights_of_others_are_tuned_in_small_steps_with_their_own_statistics(info: DatasetInfo) -> None:
    config = configured(info, network="resnet18", pretrained=True, settings=["layer_decay=0.9"])
    assert (config.optim.name, config.optim.lr, config.optim.layer_decay) == ("adamw", 1e-3, 0.9)
    assert (config.training.fitted_head, config.training.frozen_norms) == (True, True)
    others = configured(info, network="timm/test_convnext.r160_in1k", pretrained=True)
    assert (others.optim.lr, others.optim.layer_decay, others.training.frozen_norms) == (3e-4, 0.7, False)
    assert card_for(config, info).mean == (0.485, 0.456, 0.406)
    own = configured(info, network="cnn", pretrained=True)
    assert card_for(own, info).mean == info.mean
    assert (own.optim.head_lr_factor, own.training.fitted_head) == (10, False)


def test_a_probe_needs_a_trained_body(info: DatasetInfo) -> None:
    with pytest.raises(ConfigError, match="--weights or --init"):
        configured(info, "probe", network="resnet18")
    config = configured(info, "probe", network="resnet18", pretrained=True)
    assert (config.training.probe, config.training.epochs) == (True, 1)


def test_what_is_set_wins_over_the_recipe_of_weights_of_others(info: DatasetInfo) -> None:
    config = configured(info, pretrained=True, settings=["label_smoothing=0", "weight_decay=0.3"])
    assert (config.optim.name, config.optim.label_smoothing, config.optim.weight_decay) == ("adamw", 0, 0.3)
    sgd = configured(info, network="resnet18", pretrained=True, settings=["optim.name=sgd"])
    assert (sgd.optim.name, sgd.optim.lr, sgd.optim.layer_decay) == ("sgd", 0.1, 0.85)


def test_a_model_of_a_public_network_goes_on_in_its_own_small_steps(info: DatasetInfo) -> None:
    settings = ["network.mirror=true"]
    parent = card_for(configured(info, network="resnet18", pretrained=True, settings=settings), info)
    again = configured(info, init=parent)
    assert again.network.mirror
    assert (again.optim.lr, again.optim.layer_decay) == (1e-4, 0.85)
    assert (again.training.fitted_head, again.training.frozen_norms) == (False, True)


def test_frozen_stages_see_each_image_once(info: DatasetInfo) -> None:
    config = configured(info, network="resnet18", pretrained=True, settings=["frozen_stages=3"])
    assert (config.training.frozen_stages, config.augment.translate) == (3, 0)
    with pytest.raises(ConfigError, match="--weights or --init"):
        configured(info, network="resnet18", settings=["frozen_stages=3"])


def test_public_weights_take_few_epochs_most_of_them_on_smaller_photographs(info: DatasetInfo) -> None:
    photographs = info.model_copy(update={"image_size": 224, "counts": info.counts | {"train": 4_000}})
    tuned = configured(photographs, "fast", network="resnet18", pretrained=True)
    assert tuned.training.epochs < configured(photographs, "fast", network="resnet18").training.epochs
    assert 0 < tuned.training.reduced_share < 1
    assert (tuned.augment.crop > 0, tuned.augment.translate) == (True, 0)
    few = photographs.model_copy(update={"counts": info.counts | {"train": 250}})
    assert (
        configured(few, "fast", network="resnet18", pretrained=True).training.epochs
        == 2 * tuned.training.epochs
    )
    fixed = configured(photographs, "fast", network="timm/vit_tiny_patch16_224.augreg_in21k", pretrained=True)
    assert fixed.training.reduced_share == 0  # it takes one size
    small = configured(info, "fast", network="resnet18", pretrained=True)
    assert (small.augment.crop, small.training.reduced_share) == (0, 0)
