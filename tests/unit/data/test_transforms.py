"""The square that is made of an image: cropped, padded or squashed."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from raycls.data.transforms import Resize, read_square, to_square

LEFT, RIGHT = (250, 0, 0), (0, 0, 250)


def halves(width: int, height: int) -> Image.Image:
    image = Image.new("RGB", (width, height), LEFT)
    image.paste(RIGHT, (width // 2, 0, width, height))
    return image


@pytest.mark.parametrize(
    ("resize", "corner", "middle_of_the_top"),
    [("crop", LEFT, LEFT), ("pad", (0, 0, 0), (0, 0, 0)), ("squash", LEFT, LEFT)],
)
def test_a_wide_image(
    resize: Resize, corner: tuple[int, int, int], middle_of_the_top: tuple[int, int, int]
) -> None:
    square = to_square(halves(80, 40), 20, resize)
    assert square.shape == (20, 20, 3)
    assert tuple(square[0, 0]) == corner
    assert tuple(square[0, 8]) == middle_of_the_top
    assert tuple(square[10, 2]) == LEFT
    assert tuple(square[10, 17]) == RIGHT


def test_crop_shows_the_middle_and_squash_shows_all() -> None:
    stripe = Image.new("RGB", (80, 40), LEFT)
    stripe.paste(RIGHT, (0, 0, 10, 40))  # outside the centred square
    assert tuple(to_square(stripe, 20, "crop")[10, 0]) == LEFT
    assert tuple(to_square(stripe, 20, "squash")[10, 0]) == RIGHT
    assert tuple(to_square(stripe, 20, "pad")[10, 0]) == RIGHT


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
def test_an_image_of_the_size_is_not_resampled(resize: Resize) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    assert np.array_equal(to_square(Image.fromarray(pixels), 20, resize), pixels)


@pytest.mark.parametrize("resize", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(1, 400), (400, 1), (1, 1)])
def test_any_shape_becomes_a_square(resize: Resize, size: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", size, LEFT).save(buffer, "PNG")
    assert read_square(buffer.getvalue(), 16, resize).shape == (16, 16, 3)
