"""A network that sees smaller images: its copy of the dataset, its training, and its answers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raycls.data.packed import PackedDataset
from raycls.data.resized import FORGOTTEN_S, at_size
from raycls.data.transforms import to_square
from raycls.engines.predictor import Predictor
from raycls.errors import ConfigError
from raycls.training.evaluation import evaluate
from raycls.training.loop import fit
from raycls.training.recipes import configured
from raycls.training.setup import card_for, check
from raycls.tuning import space as spaces
from raycls.tuning.latency import latencies
from raycls.tuning.space import Domain
from raycls.tuning.spec import StudySpec
from tests import datasets


@pytest.fixture
def colours(home: Path) -> PackedDataset:
    return datasets.colours(64, {"train": 60, "val": 20, "gate": 20, "test": 20})


def test_the_copy_is_resized_as_preparation_does_and_made_once(colours: PackedDataset, home: Path) -> None:
    smaller = at_size(colours, 24)
    assert smaller.info.image_size == 24
    for split in ("train", "val"):
        assert np.array_equal(smaller.labels(split), colours.labels(split))
        first = to_square(Image.fromarray(colours.images(split)[0]), 24)
        assert np.array_equal(smaller.images(split)[0], first)
    made = (smaller.path / "train" / "images.npy").stat()
    assert at_size(colours, 24) == smaller
    assert (smaller.path / "train" / "images.npy").stat().st_mtime_ns == made.st_mtime_ns
    assert at_size(colours, None) is colours
    assert at_size(colours, 64) is colours


def test_a_copy_that_nobody_used_for_a_day_goes_with_the_next_one(colours: PackedDataset) -> None:
    old, kept = at_size(colours, 24), at_size(colours, 32)
    day_ago = old.path.stat().st_mtime - FORGOTTEN_S - 60
    os.utime(old.path, (day_ago, day_ago))
    at_size(colours, 40)
    assert not old.path.exists()
    assert kept.path.exists()


def test_a_network_of_smaller_images_learns_and_answers_for_whole_ones(
    colours: PackedDataset, tmp_path: Path
) -> None:
    settings = ["network.image_size=32", "widths=[8,8]", "batch_size=20", "epochs=4", "precision=fp32"]
    config = configured(colours.info, "smoke", network="cnn", settings=settings)
    assert config.augment.translate == 2  # of the network's 32 pixels
    fit(config, at_size(colours, 32), on_epoch=lambda metrics, snapshot: snapshot.save(tmp_path))
    predictor = Predictor.load(tmp_path)
    assert predictor.card.image_size == 32
    assert predictor.card.dataset_fingerprint == colours.info.fingerprint
    assert evaluate(predictor, colours, "test").accuracy == 1  # images of 64 pixels, resized
    # What starts from it sees images of the same size.
    again = configured(colours.info, "smoke", init=predictor.card)
    assert card_for(again, colours.info, predictor.card).image_size == 32


def test_images_are_not_enlarged(colours: PackedDataset) -> None:
    config = configured(colours.info, "smoke", settings=["network.image_size=96", "batch_size=20"])
    with pytest.raises(ConfigError, match="more than the 64 pixels of colours@1: prepare it with --size 96"):
        check(config, colours)


def test_a_study_of_latency_searches_sizes_where_a_network_has_no_widths(colours: PackedDataset) -> None:
    config = configured(colours.info, "smoke", network="timm/test_efficientnet.r160_in1k", pretrained=True)
    assert spaces.architectures(config, 224)["network.image_size"].choices == (128, 160, 192, None)
    fixed = configured(colours.info, "smoke", network="timm/vit_tiny_patch16_224.augreg_in21k")
    with pytest.raises(ConfigError, match="has a fixed shape and size"):
        spaces.architectures(fixed, 224)


def test_smaller_images_take_less_time(colours: PackedDataset) -> None:
    config = configured(colours.info, "smoke", network="cnn", settings=["widths=[32,64]", "batch_size=20"])
    space = {"network.image_size": Domain(choices=(16, 64))}
    spec = StudySpec(
        dataset="colours", fingerprint="0", config=config, storage="", space=space, trials=1, max_epochs=1
    )
    small, whole = latencies(spec, colours).values()
    assert whole > small > 0
