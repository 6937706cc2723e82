"""The conversion of an encoded image to square RGB pixels.

    pixels = to_square(decode(data), 32)           # uint8 32×32×3, as a packed dataset stores them

Preparation, evaluation and serving call this code, so all of them give a network the same pixels for the same image.
This module knows pixels, and neither labels nor files nor networks. It does not import PyTorch, so that a replica
which does not need PyTorch starts in half the time.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import ExifTags, Image

from raycls.errors import ImageError, ImageTooLargeError, NotAnImageError

MAX_PIXELS = 50_000_000
BMP_RUN_LENGTHS = (1, 2)  # RLE8, RLE4
# How an image is turned upright, by its EXIF orientation (CIPA DC-008, 4.6.4).
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# `max_pixels` replaces this warning. A filter inside `decode` would take longer than decoding a small image.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


def decode(
    data: bytes, *, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] | None = None
) -> Image.Image:
    """Return the first frame of an encoded image as RGB, turned upright by its EXIF orientation.

    The size is checked in the header, before any pixel is decoded. formats: the accepted formats, by Pillow's names;
    None accepts every format that Pillow reads. Transparent pixels are put on black. 16-bit grey is scaled to 8 bits.

    Raises NotAnImageError if the bytes are in no accepted format, ImageTooLargeError for more than max_pixels, or
    ImageError if the image is truncated or damaged.
    """
    image = _opened(data, max_pixels, formats)
    try:
        image.load()
        upright = _upright(image)
        if upright.mode.startswith("I") or upright.mode == "F":
            # Pillow would clip 16-bit grey to 8 bits instead of scaling it.
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
    """Return the number of pixels in the header of an encoded image. Raises the errors of `decode` for a bad header."""
    width, height = _opened(data, max_pixels, formats).size
    return width * height


def _opened(data: bytes, max_pixels: int, formats: tuple[str, ...] | None) -> Image.Image:
    """Return the image, of which only the header has been read."""
    if not data:
        raise ImageError("the image is empty: 0 bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=formats)
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"the image has more than {max_pixels:,} pixels") from error
    except Exception as error:
        # Pillow's parsers raise many types on hostile bytes. Until `open` returns, all mean an unknown format.
        raise NotAnImageError("the bytes are not an image of a known format") from error
    width, height = image.size
    if width * height > max_pixels:
        raise ImageTooLargeError(
            f"the image has {width}×{height} pixels, but at most {max_pixels:,} are accepted: make it smaller"
        )
    if image.format in ("BMP", "DIB") and image.info.get("compression") in BMP_RUN_LENGTHS:
        # Pillow decodes it pixel by pixel in Python, which takes seconds for a file of a few kilobytes.
        raise ImageError("run-length encoded BMP is not supported: save the image uncompressed, or as PNG")
    return image


def _upright(image: Image.Image) -> Image.Image:
    """Return the image turned by its EXIF orientation, or unchanged where no orientation can be read.

    ImageOps.exif_transpose would also write the other tags anew, and raise over broken ones.
    """
    try:
        turn = TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises SyntaxError, struct.error and others; the pixels are sound
        return image
    return image if turn is None else image.transpose(turn)


def to_square(image: Image.Image, size: int) -> np.ndarray:
    """Return the largest centred square, resampled to uint8 size×size×3. An image of that size is not resampled."""
    if image.size == (size, size):
        return np.asarray(image)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    square = image.resize(
        (size, size),
        Image.Resampling.BILINEAR,
        box=(left, top, left + side, top + side),
        reducing_gap=2.0,  # shrinks a large photograph by a whole factor first: much faster, and hardly visible
    )
    return np.asarray(square)
