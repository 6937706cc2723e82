"""Decoding to upright RGB: what the header decides, and which images are refused."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

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


def exif(*entries: bytes) -> bytes:
    """A little-endian TIFF head with one directory of these entries, 12 bytes each."""
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4)


QUARTER_TURN = struct.pack("<HHII", 0x0112, 3, 1, 6)
ROUND_NOTHING = struct.pack("<HHII", 0x0112, 3, 1, 9)  # orientations end at 8


@pytest.mark.parametrize(
    ("kind", "metadata", "size"),
    [
        pytest.param("PNG", b"\0\x08\0\x02\x01\x12\0\x03", (6, 4), id="no TIFF head"),
        pytest.param("PNG", b"II*\0\xff\xff\xff\x7f", (6, 4), id="a directory beyond the end"),
        pytest.param("PNG", exif(QUARTER_TURN)[:15], (6, 4), id="cut off"),
        pytest.param("PNG", exif(ROUND_NOTHING), (6, 4), id="no such orientation"),
        pytest.param("JPEG", b"Exif\0\0" + bytes(range(64)), (6, 4), id="noise"),
        pytest.param(
            "JPEG",
            b"Exif\0\0"
            + exif(QUARTER_TURN, struct.pack("<HHII", 0x011A, 10, 1, 38))
            + struct.pack("<ii", -1, 0),
            (4, 6),
            id="another tag is broken: the orientation is still heeded",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's about such EXIF
def test_sound_pixels_are_read_whatever_their_exif(kind: str, metadata: bytes, size: tuple[int, int]) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 4), (200, 20, 30)).save(buffer, kind, exif=metadata)
    image = decode(buffer.getvalue())
    assert image.size == size
    assert np.abs(np.asarray(image, dtype=int) - (200, 20, 30)).max() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_turned_as_pillow_does(orientation: int) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    data = png(Image.fromarray(pixels), orientation)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data)))
    assert np.array_equal(np.asarray(decode(data)), np.asarray(upright))
