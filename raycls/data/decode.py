"""The decoding of an encoded image to upright RGB pixels.

    image = decode(data, side=32)          # a PIL image; raycls/data/transforms.py makes the square of it

Preparation, evaluation, serving and the command line call this code, so a network meets the same pixels everywhere. The
table in docs/data.md says what becomes of each kind of file. This module knows pixels; it knows neither files nor
labels. It does not import PyTorch, so that a replica which does not need PyTorch starts in half the time.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image, ImageCms

from raycls.errors import ImageError, ImageTooLargeError, NoMemoryForImageError, NotAnImageError

MAX_PIXELS = 50_000_000
SUFFICES = (
    2  # a JPEG is decoded at the smallest scale whose shorter side has at least this many times `side` pixels
)
MAX_PROFILE_BYTES = 4 << 20  # the profiles of printers have up to 3 MB
STRIP = (
    1 << 20
)  # pixels that are converted to RGB at once: a palette with transparency takes 16 bytes for each
GROUND = (0, 0, 0)  # what shows through transparent pixels
BMP_RUN_LENGTHS = (1, 2)  # RLE8, RLE4
TWELVE_BITS, SIXTEEN_BITS = 4095, 65535
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
# TIFF's tags for the values of black and white: SMinSampleValue and SMaxSampleValue, MinSampleValue and MaxSampleValue.
STATED_RANGES = ((340, 341), (280, 281))
# `max_pixels` replaces this warning. A filter inside `decode` would take longer than decoding a small image.
warnings.simplefilter("ignore", Image.DecompressionBombWarning)


class Decoded(NamedTuple):
    """An RGB image, upright, and what its file said: size in pixels before any scaling, and Pillow's mode."""

    image: Image.Image
    width: int
    height: int
    mode: str


def decode(
    data: bytes,
    *,
    side: int | None = None,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] | None = None,
) -> Image.Image:
    """Return the first frame of an encoded image as RGB, upright; see `decode_with_facts`."""
    return decode_with_facts(data, side=side, max_pixels=max_pixels, formats=formats).image


def decode_with_facts(
    data: bytes,
    *,
    side: int | None = None,
    max_pixels: int = MAX_PIXELS,
    formats: tuple[str, ...] | None = None,
) -> Decoded:
    """Return the first frame of an encoded image as RGB, turned upright by its EXIF orientation, and its facts.

    The size is checked in the header, before any pixel is decoded. side: the pixels a side of the square that the
    caller makes; a much larger JPEG is decoded at a half, a quarter or an eighth of its size. formats: the accepted
    formats, by Pillow's names; None accepts all of `every_format`. Colours with an ICC profile are converted
    to sRGB. Transparent pixels are put on GROUND. More than 8 bits a pixel are scaled to 8.

    What a large image takes on the way beside its own pixels and the RGB ones is bounded: it is converted in strips.

    Raises NotAnImageError if the bytes are in no accepted format, ImageTooLargeError for more than max_pixels,
    NoMemoryForImageError, or ImageError if the image is truncated, damaged, or has values of which no rule says how
    bright they are.
    """
    image = _opened(data, max_pixels, formats)
    width, height, mode = image.width, image.height, image.mode
    if side is not None and image.format in ("JPEG", "MPO"):
        image.draft(mode, (SUFFICES * side, SUFFICES * side))
    try:
        image.load()
        turn = _turn(image)
        upright = _rgb(image) if turn is None else _rgb(image).transpose(turn)
        return Decoded(upright, width, height, mode)
    except ImageError:
        raise
    except MemoryError as error:
        raise NoMemoryForImageError("there was no memory to decode the image") from error
    except Exception as error:
        raise ImageError(f"the image is truncated or damaged: {error}") from error


def pixels_of(data: bytes, *, max_pixels: int = MAX_PIXELS, formats: tuple[str, ...] | None = None) -> int:
    """Return the number of pixels in the header of an encoded image. Raises the errors of `decode` for a bad header."""
    width, height = _opened(data, max_pixels, formats).size
    return width * height


@lru_cache(maxsize=1)
def every_format() -> tuple[str, ...]:
    """Return the formats that preparation accepts, by Pillow's names, the usual ones first.

    EPS is not among them: Ghostscript would run the program that such a file is. HEIF needs the extra `heic`.
    """
    Image.init()
    return ("JPEG", "PNG", *sorted(set(Image.ID) - {"JPEG", "PNG", "EPS", "HEIF"}), "HEIF")


def _opened(data: bytes, max_pixels: int, formats: tuple[str, ...] | None) -> Image.Image:
    """Return the image, of which only the header has been read."""
    if not data:
        raise ImageError("the image is empty: 0 bytes")
    if formats is None and data[4:8] == b"ftyp":
        _accept_heic()
    try:
        image = Image.open(io.BytesIO(data), formats=formats or every_format())
    except Image.DecompressionBombError as error:
        raise ImageTooLargeError(f"the image has more than {max_pixels:,} pixels") from error
    except MemoryError as error:
        raise NoMemoryForImageError("there was no memory to decode the image") from error
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


@lru_cache(maxsize=1)
def _accept_heic() -> None:
    """Let Pillow read HEIC, if the extra `heic` is installed. It reads AVIF by itself."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError:
        return
    register_heif_opener()


def _turn(image: Image.Image) -> Image.Transpose | None:
    """Return what turns the loaded image upright by its EXIF orientation, or None where no orientation can be read.

    ImageOps.exif_transpose would also write the other tags anew, and raise over broken ones.
    """
    try:
        return TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # Pillow raises SyntaxError, struct.error and others; the pixels are sound
        return None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F" or image.mode.startswith("I"):
        return _from_values(image)
    if image.mode == "RGB" and not {"icc_profile", "transparency"} & image.info.keys():
        return image
    return _converted(image, _rgb_at_once)


def _converted(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """Return an image as RGB: each strip of it converted by itself, so that little is in memory beside the result."""
    if image.width * image.height <= STRIP:
        return convert(image)
    whole = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        whole.paste(convert(strip), (0, top))
    return whole


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Yield the first row and the pixels of each strip of an image."""
    rows = max(1, STRIP // image.width)
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        strip.info = image.info
        yield top, strip


def _rgb_at_once(image: Image.Image) -> Image.Image:
    if profile := image.info.get("icc_profile"):
        image = _to_srgb(image, profile)
    if image.mode == "P" or "transparency" in image.info:
        image = image.convert("RGBA")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*GROUND, 255)), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _from_values(image: Image.Image) -> Image.Image:
    """Return an image of whole numbers or floats as RGB: its black becomes 0 and its white 255."""
    strips = (np.asarray(strip) for _, strip in _strips(image))
    # In an array, because Python's min would pass over a NaN.
    extremes = np.array([(values.min(), values.max()) for values in strips], dtype=np.float64)
    low, high = float(extremes[:, 0].min()), float(extremes[:, 1].max())
    if not np.isfinite([low, high]).all():
        raise ImageError(
            "the image has values that are no numbers (NaN or infinity): save it with 8 or 16 bits"
        )
    black, white = _stated_range(image) or _usual_range(image.mode, low, high)

    def convert(strip: Image.Image) -> Image.Image:
        values = np.array(strip, dtype=np.float32)
        values -= black
        values *= 255 / (white - black)
        # Halves are cut off, so that 16 bits become the 8 bits that Pillow makes of 16-bit colours.
        return Image.fromarray(np.clip(values, 0, 255, out=values).astype(np.uint8)).convert("RGB")

    return _converted(image, convert)


def _stated_range(image: Image.Image) -> tuple[float, float] | None:
    """Return black and white as the tags of a TIFF file state them, or None."""
    tags = getattr(image, "tag_v2", {})
    for darkest, brightest in STATED_RANGES:
        if brightest in tags:
            black, white = (np.atleast_1d(tags.get(tag, 0)).astype(float)[0] for tag in (darkest, brightest))
            if np.isfinite([black, white]).all() and white > black:
                return black, white
    return None


def _usual_range(mode: str, low: float, high: float) -> tuple[float, float]:
    """Return black and white for an image that does not state them, whose values go from low to high.

    Raises ImageError where no rule is certain.
    """
    if mode == "F":
        if low >= 0 and high <= 1:
            return 0, 1
        if high > low:
            return low, high
        raise ImageError(f"each pixel has the value {low:g}, and nothing says how bright that is")
    if low >= 0 and high <= TWELVE_BITS:  # cameras write 12 bits into 16
        return 0, TWELVE_BITS
    if low >= 0 and high <= SIXTEEN_BITS:
        return 0, SIXTEEN_BITS
    raise ImageError(
        f"the image has whole numbers from {low:.0f} to {high:.0f}, and nothing says which of them is white: save it "
        "with 8 or 16 bits"
    )


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Return the image in sRGB, or unchanged where its ICC profile cannot be used."""
    mode = image.mode
    if len(profile) > MAX_PROFILE_BYTES or mode not in ("L", "RGB", "RGBA", "CMYK"):
        return image
    transform = _transform(profile, mode)
    if transform is None:
        return image
    converted = transform.apply(image)
    converted.info = {key: value for key, value in image.info.items() if key != "icc_profile"}
    return converted


@lru_cache(maxsize=16)
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what converts an image of the mode to sRGB. None if the profile is broken or is sRGB."""
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(source).lower():
            return None
        return ImageCms.buildTransform(
            source, ImageCms.createProfile("sRGB"), mode, "RGBA" if mode == "RGBA" else "RGB"
        )
    except (ImageCms.PyCMSError, OSError, ValueError):
        return None
