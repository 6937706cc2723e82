"""The square that a network takes, made of an upright image.

    pixels = read_square(data, 32)           # uint8 32×32×3 of an encoded image, as a dataset stores it

Preparation, evaluation and serving call this code, so all of them give a network the same pixels for the same image.
"""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np
from PIL import Image

from raycls.data.decode import GROUND, MAX_PIXELS, decode_with_facts

Resize = Literal["crop", "pad", "squash"]
RESIZES: tuple[Resize, ...] = get_args(Resize)
REDUCING_GAP = (
    2.0  # Pillow first shrinks a large photograph by a whole factor: much faster, and hardly visible
)


class Square(NamedTuple):
    """uint8 S×S×3 pixels, and width and height of the encoded image that they are of."""

    pixels: np.ndarray
    width: int
    height: int


def at_side(images: np.ndarray, side: int) -> np.ndarray:
    """Return uint8 N×side×side×3 of square images, uint8 N×S×S×3; the same array where they have this side."""
    if images.shape[1] == side:
        return images
    resized = np.empty((len(images), side, side, 3), np.uint8)
    for row, pixels in enumerate(images):
        resized[row] = to_square(Image.fromarray(pixels), side)
    return resized


def to_square(image: Image.Image, size: int, resize: Resize = "crop") -> np.ndarray:
    """Return uint8 size×size×3 of an RGB image. An image of that size is not resampled.

    resize: "crop" takes the largest centred square, "pad" the whole image with GROUND beside it, and "squash" the whole
    image with its sides stretched to the same length.
    """
    if image.size == (size, size):
        return np.asarray(image)
    width, height = image.size
    if resize == "pad":
        return _padded(image, size)
    box = (0.0, 0.0, float(width), float(height))
    if resize == "crop":
        side = min(width, height)
        left, top = (width - side) / 2, (height - side) / 2
        box = (left, top, left + side, top + side)
    return np.asarray(_resampled(image, (size, size), box))


def read_square(
    data: bytes,
    size: int,
    resize: Resize = "crop",
    *,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] | None = None,
) -> np.ndarray:
    """Return uint8 size×size×3 of an encoded image. For the limits and the errors see `raycls.data.decode`."""
    return read_square_and_size(data, size, resize, max_pixels=max_pixels, formats=formats).pixels


def read_square_and_size(
    data: bytes,
    size: int,
    resize: Resize = "crop",
    *,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] | None = None,
) -> Square:
    """Return the pixels of `read_square`, and the size that the encoded image has."""
    found = decode_with_facts(data, side=size, max_pixels=max_pixels, formats=formats)
    return Square(to_square(found.image, size, resize), found.width, found.height)


def _padded(image: Image.Image, size: int) -> np.ndarray:
    share = size / max(image.size)
    width, height = (max(1, round(length * share)) for length in image.size)
    square = Image.new("RGB", (size, size), GROUND)
    whole = _resampled(image, (width, height), (0.0, 0.0, *image.size))
    square.paste(whole, ((size - width) // 2, (size - height) // 2))
    return np.asarray(square)


def _resampled(
    image: Image.Image, size: tuple[int, int], box: tuple[float, float, float, float]
) -> Image.Image:
    return image.resize(size, Image.Resampling.BILINEAR, box=box, reducing_gap=REDUCING_GAP)
