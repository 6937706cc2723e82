"""From bytes to what a network is fed: decode, square, normalise.

    pixels = to_square(decode(data), 32)           # uint8 32×32×3: what a packed dataset stores
    batch = normalize(torch.from_numpy(pixels)[None], mean, std)   # float32 1×3×32×32: what a network takes

One copy for preparation, training, evaluation and serving, so that all four feed a network the same numbers.
Knows pixels only: no labels, no files, no networks.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from raycls.errors import ImageError, ImageTooLargeError, NotAnImageError

MAX_PIXELS = 50_000_000
BMP_RUN_LENGTHS = (1, 2)  # RLE8, RLE4
# max_pixels decides. Not in `decode`: to change filters there takes longer than to read a small image.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def decode(
    data: bytes, *, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] | None = None
) -> Image.Image:
    """The first frame of an encoded image as RGB, turned upright by its EXIF orientation.

    The size is checked in the header, before any pixel is decoded. `formats` limits what is tried (Pillow's names);
    None tries every format Pillow reads. Transparent pixels are laid on black; 16-bit grey is scaled to 8.

    Raises NotAnImageError (no format recognises the bytes), ImageTooLargeError (more than max_pixels) or ImageError
    (recognised, but truncated or damaged).
    """
    image = _opened(data, max_pixels, formats)
    try:
        image.load()
        ImageOps.exif_transpose(image, in_place=True)
        upright: Image.Image = image
        if upright.mode.startswith("I") or upright.mode == "F":
            # Pillow would clip, not scale, when it turns 16-bit grey into RGB.
            values = np.asarray(upright, dtype=np.float32)
            return Image.fromarray(np.clip(values / 257.0, 0, 255).astype(np.uint8)).convert("RGB")
        if upright.mode == "P" or "transparency" in upright.info:
            upright = upright.convert("RGBA")
        if upright.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
            upright = upright.convert("RGBA")
            ground = Image.new("RGBA", upright.size, (0, 0, 0, 255))
            upright = Image.alpha_composite(ground, upright)
        return upright if upright.mode == "RGB" else upright.convert("RGB")
    except Exception as error:
        raise ImageError(f"the image is truncated or damaged: {error}") from error


def pixels_of(data: bytes, *, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] | None = None) -> int:
    """How many pixels the header of an encoded image announces. Raises what `decode` does of a header."""
    width, height = _opened(data, max_pixels, formats).size
    return width * height


def _opened(data: bytes, max_pixels: int, formats: tuple[str, ...] | None) -> Image.Image:
    """The image, of which only the header was read."""
    if not data:
        raise ImageError("the image is empty: 0 bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"the image has more than {max_pixels:,} pixels") from error
    except Exception as error:
        # Pillow's parsers raise many types on hostile bytes; before `open` returns they all mean the same.
        raise NotAnImageError("the bytes are not an image of a known format") from error
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"the image has {width}×{height} pixels; at most {max_pixels:,} are accepted: reduce it first"
        )
    if image.format in ("BMP", "DIB") and image.info.get("compression") in BMP_RUN_LENGTHS:
        # Pillow unpacks it pixel by pixel in Python: seconds for a file of a few kilobytes.
        raise ImageError("a run-length encoded BMP is not read: save it uncompressed, or as PNG")
    return image


def to_square(image: Image.Image, size: int) -> np.ndarray:
    """The largest centred square, resampled to uint8 size×size×3. An image of that size is passed on unchanged."""
    if image.size == (size, size):
        return np.asarray(image)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    square = image.resize(
        (size, size),
        Image.Resampling.BILINEAR,
        box=(left, top, left + side, top + side),
        reducing_gap=2.0,  # shrinks large photographs in whole steps first: several times faster, hardly visible
    )
    return np.asarray(square)


def as_tensor(images: np.ndarray) -> Tensor:
    """The same memory as a tensor, a read-only memory map included: nothing here writes into images."""
    if images.flags.writeable:
        return torch.from_numpy(images)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(images)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 N×S×S×3 to float32 N×3×S×S with channels_last strides, as (x / 255 - mean) / std.

    mean and std are per channel, in units of the 0..1 range, as the dataset's manifest gives them.
    """
    return rescale(images, *scale_and_shift(mean, std, images.device))


def scale_and_shift(
    mean: Sequence[float], std: Sequence[float], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """What `normalize` multiplies pixels by and then adds, float32, one of each channel."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale, shift


def rescale(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`normalize` with its constants ready on the device: nothing is copied there."""
    pixels = images.shape[1] * images.shape[2]
    # As wide as an image: over three channels at a time nothing is vectorised, which takes eight times as long.
    values = torch.addcmul(shift.repeat(pixels), images.flatten(1).float(), scale.repeat(pixels))
    return values.unflatten(1, images.shape[1:]).permute(0, 3, 1, 2)
