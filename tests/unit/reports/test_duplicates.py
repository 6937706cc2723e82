"""Copies are found through what hides them; other images are not."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from raycls.data.packed import PackedDataset
from raycls.engines.examples import match
from raycls.engines.predictor import Predictor
from raycls.reports.duplicates import near_duplicates


def _photographs(count: int, seed: int) -> np.ndarray:
    """Smooth random colours, uint8 N×32×32×3: no two alike."""
    small = np.random.default_rng(seed).integers(0, 256, (count, 6, 6, 3), dtype=np.uint8)
    return np.stack(
        [np.asarray(Image.fromarray(each).resize((32, 32), Image.Resampling.BICUBIC)) for each in small]
    )


def _jpeg(pixels: np.ndarray) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="JPEG", quality=30)
    return np.asarray(Image.open(buffer))


def test_copies_are_found_and_others_are_not(digits: PackedDataset, predictor: Predictor) -> None:
    originals, others = _photographs(3000, 1), _photographs(40, 2)
    card = predictor.card.model_copy(update={"image_size": 32})
    trained = match(card, digits, "train")
    trained = replace(trained, images=originals, rows=np.arange(3000), labels=np.arange(3000) % 10)
    copies = np.stack(
        [
            originals[2500],
            (originals[5] * 0.6 + 40).astype(np.uint8),
            _jpeg(originals[2999]),
            originals[77][:, ::-1],
        ]
    )
    labels = np.array([0, 5, 9, 7, *[0] * 40])
    labels[1] = 4  # of another class than its twin
    images = np.concatenate([copies, others])
    examples = replace(trained, images=images, rows=np.arange(44), labels=labels)

    found = near_duplicates(examples, trained, mirrored=True)
    assert {(pair.example, pair.trained) for pair in found.pairs} == {(0, 2500), (1, 5), (2, 2999), (3, 77)}
    assert (found.count, found.looked_up, found.relabelled) == (4, 44, 1)
    correlations = [pair.correlation for pair in found.pairs]
    assert correlations == sorted(correlations, reverse=True)
    assert {pair.example for pair in near_duplicates(examples, trained, mirrored=False).pairs} == {0, 1, 2}


def test_images_of_one_colour_are_like_nothing(digits: PackedDataset, predictor: Predictor) -> None:
    plain = np.full((2, 8, 8, 3), 200, np.uint8)
    examples = replace(
        match(predictor.card, digits, "test"), images=plain, rows=np.arange(2), labels=np.array([0, 1])
    )
    assert near_duplicates(examples, examples, mirrored=True).count == 0
