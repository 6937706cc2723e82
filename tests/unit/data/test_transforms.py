"""Decoding to upright RGB: what the header decides, and which images are refused."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from raycls.data.transforms import decode, pixels_of
from raycls.errors import ImageError, ImageTooLargeError, NotAnImageError


def png(image: Image.Image, orientation: int = 1) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_sixteen_bits_are_scaled_and_turned_upright_like_eight(orientation: int) -> None:
    grey = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) * 10
    eight = decode(png(Image.fromarray(grey), orientation))
    sixteen = decode(png(Image.fromarray(grey.astype(np.uint16) * 257), orientation))
    assert sixteen.size == ((4, 6) if orientation < 5 else (6, 4))
    assert np.array_equal(np.asarray(sixteen), np.asarray(eight))


def run_length_bmp(width: int, height: int) -> bytes:
    """An RLE8 bitmap of that size. Each of its lines ends after one pixel."""
    rows = b"\x01\x00\x00\x00" * height + b"\x00\x01"
    palette = bytes(1024)
    offset = 14 + 40 + len(palette)
    header = struct.pack("<2sIHHI", b"BM", offset + len(rows), 0, 0, offset)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return header + info + palette + rows


def test_a_run_length_encoded_bitmap_is_refused_unread() -> None:
    assert Image.open(io.BytesIO(run_length_bmp(50_000, 900))).size == (50_000, 900)
    with pytest.raises(ImageError, match="run-length"):
        decode(run_length_bmp(50_000, 900))


def test_pixels_are_counted_without_decoding() -> None:
    whole = png(Image.new("RGB", (40, 30)))
    assert pixels_of(whole) == pixels_of(whole[: whole.index(b"IDAT") + 8]) == 1200
    with pytest.raises(ImageTooLargeError):
        pixels_of(whole, max_pixels=1199)
    with pytest.raises(NotAnImageError):
        pixels_of(b"no image")


@pytest.mark.parametrize(
    "exif",
    [
        b"",
        b"Exif\x00\x00",
        b"Exif\x00\x00II*\x00\xff\xff\xff\xff",
        b"Exif\x00\x00" + bytes(range(256)),
        b"no EXIF at all",
    ],
    ids=["empty", "head alone", "offset beyond the end", "noise", "text"],
)
def test_an_orientation_that_cannot_be_read_is_ignored(exif: bytes) -> None:
    """The pixels are sound. Pillow raises SyntaxError, struct.error and others over such EXIF."""
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (200, 20, 30)).save(buffer, "JPEG", exif=exif)
    assert decode(buffer.getvalue()).size == (6, 4)
