"""Decoding to upright RGB: what the header decides, and which images are refused."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from PIL import Image, ImageCms, ImageOps

from raycls.data.decode import decode, decode_with_facts, pixels_of
from raycls.errors import ImageError, ImageTooLargeError, NoMemoryForImageError, NotAnImageError


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


def _of_mode(mode: str) -> Image.Image:
    """An image of 40×30 pixels that uses what its mode has."""
    noise = np.random.default_rng(3).integers(0, 256, (30, 40, 4), dtype=np.uint8)
    if mode == "P":
        image = Image.fromarray(noise[..., :3]).quantize(16)
        image.info["transparency"] = bytes(range(0, 256, 16))
        return image
    if mode == "I;16":
        return Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(noise[..., 0].astype(np.float32) / 255)
    return Image.fromarray(noise, "RGBA").convert(mode)


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        *((mode, "PNG") for mode in ("P", "I;16", "RGBA", "LA", "L", "1", "RGB")),
        *(("F", "TIFF"), ("CMYK", "TIFF"), ("YCbCr", "JPEG")),
    ],
)
def test_a_large_image_is_converted_in_strips_with_the_same_pixels(
    mode: str, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    buffer = io.BytesIO()
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes() if mode == "CMYK" else None
    _of_mode(mode).save(buffer, form, **({"icc_profile": profile} if profile else {}))
    whole = np.asarray(decode(buffer.getvalue()))
    for pixels in (1, 70, 1199):
        monkeypatch.setattr("raycls.data.decode.STRIP", pixels)
        np.testing.assert_array_equal(np.asarray(decode(buffer.getvalue())), whole)


def test_values_that_are_no_numbers_are_found_in_every_strip(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.full((30, 40), 0.5, np.float32)
    values[20, 3] = np.nan
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, "TIFF")
    monkeypatch.setattr("raycls.data.decode.STRIP", 70)
    with pytest.raises(ImageError, match="no numbers"):
        decode(buffer.getvalue())


BOMB = """
import io, re
from PIL import Image
from raycls.data.decode import decode
image = Image.new("P", (7000, 7000))
image.putpalette([0, 0, 0, 255, 255, 255])
buffer = io.BytesIO()
image.save(buffer, "PNG", transparency=bytes([0, 128]))
del image
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1])
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = peak()
decode(buffer.getvalue())
print(len(buffer.getvalue()), peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of memory is read from Linux")
def test_a_picture_of_few_bytes_takes_no_more_than_its_pixels_twice() -> None:
    done = subprocess.run([sys.executable, "-c", BOMB], capture_output=True, text=True, check=True)
    size, kilobytes = map(int, done.stdout.split())
    assert size < 60_000
    assert kilobytes < 7000 * 7000 * 8 / 1000, "the palette's pixels, the RGB ones (4 bytes) and a strip"


def test_without_memory_the_image_is_not_called_damaged(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Image.Image) -> None:
        raise MemoryError

    data = png(Image.new("RGB", (4, 4)))
    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", load)
    with pytest.raises(NoMemoryForImageError):
        decode(data)


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


def tiff(values: np.ndarray, **tags: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(
        buffer, "TIFF", tiffinfo={int(tag[1:]): value for tag, value in tags.items()}
    )
    return buffer.getvalue()


RAMP = np.linspace(0, 1, 64).reshape(8, 8)
GREY = (RAMP * 255).astype(int)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(tiff((RAMP * 65535).astype(np.uint16)), id="16 bits"),
        pytest.param(tiff((RAMP * 4095).astype(np.uint16)), id="12 bits in 16"),
        pytest.param(tiff((RAMP * 1000).astype(np.uint16), _281=1000), id="16 bits, white stated"),
        pytest.param(
            tiff((RAMP * 500 + 200).astype(np.uint16), _280=200, _281=700), id="black and white stated"
        ),
        pytest.param(tiff((RAMP * 65535).astype(np.int32)), id="32 bits that hold 16"),
        pytest.param(tiff(RAMP.astype(np.float32)), id="float from 0 to 1"),
        pytest.param(tiff((RAMP * 40 + 273).astype(np.float32)), id="float of its own range"),
        pytest.param(tiff((RAMP * 2 - 1).astype(np.float32)), id="float around 0"),
    ],
)
def test_more_than_eight_bits_are_neither_black_nor_white(data: bytes) -> None:
    assert np.abs(np.asarray(decode(data)).astype(int)[..., 0] - GREY).max() <= 1


@pytest.mark.parametrize(
    ("data", "complaint"),
    [
        (tiff(np.full((8, 8), 70_000, np.int32)), "nothing says which of them is white"),
        (tiff(np.full((8, 8), -5, np.int32)), "nothing says which of them is white"),
        (tiff(np.full((8, 8), 17.5, np.float32)), "nothing says how bright"),
        (tiff(np.full((8, 8), np.nan, np.float32)), "NaN"),
    ],
)
def test_values_without_a_certain_rule_are_refused(data: bytes, complaint: str) -> None:
    with pytest.raises(ImageError, match=complaint):
        decode(data)


def with_profile(profile: bytes) -> object:
    """The decoded pixel of a file that claims to have its colours in this profile."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 100, 20)).save(buffer, "PNG", icc_profile=profile)
    return decode(buffer.getvalue()).getpixel((0, 0))


def test_colours_of_a_profile_become_srgb() -> None:
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert with_profile(srgb) == (200, 100, 20)
    # Another profile: in it red is what is blue in sRGB, and blue is red.
    table = bytearray(srgb)
    red, blue = table.index(b"rXYZ"), table.index(b"bXYZ")
    table[red : red + 4], table[blue : blue + 4] = b"bXYZ", b"rXYZ"
    swapped = bytes(table).replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be"))
    assert np.abs(np.subtract(with_profile(swapped), (20, 100, 200))).max() <= 2


@pytest.mark.parametrize(
    "profile", [bytes(range(256)), b"x", ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ")).tobytes()]
)
def test_a_profile_that_cannot_be_used_leaves_the_pixels(profile: bytes) -> None:
    assert with_profile(profile) == (200, 100, 20)


@pytest.mark.parametrize(("side", "scale"), [(None, 1), (400, 1), (150, 2), (100, 4), (20, 8)])
def test_a_large_jpeg_is_decoded_no_larger_than_it_needs_to_be(side: int | None, scale: int) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (1600, 800), (200, 30, 60)).save(buffer, "JPEG")
    decoded = decode_with_facts(buffer.getvalue(), side=side)
    assert decoded.image.size == (1600 // scale, 800 // scale)
    assert (decoded.width, decoded.height, decoded.mode) == (1600, 800, "RGB")


def test_transparent_pixels_are_put_on_black() -> None:
    image = Image.new("RGBA", (2, 1), (255, 0, 0, 255))
    image.putpixel((1, 0), (255, 0, 0, 0))
    assert np.asarray(decode(png(image))).tolist() == [[[255, 0, 0], [0, 0, 0]]]


def test_a_program_that_claims_to_be_an_image_is_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pillow gives EPS to Ghostscript, which runs it."""
    ran = tmp_path / "ran"
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {ran}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) print\n%%EOF\n"
    with pytest.raises(NotAnImageError):
        decode(eps)
    assert not ran.exists()


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_photographs_of_phones_are_decoded_upright(kind: str, orientation: int) -> None:
    pillow_heif.register_heif_opener()
    image = Image.new("RGB", (64, 48), (200, 40, 40))
    image.paste((30, 60, 210), (0, 0, 32, 48))  # the left half is blue
    metadata = Image.Exif()
    metadata[0x0112] = orientation
    buffer = io.BytesIO()
    # HEIF states how to turn an image in a property of its own, and its EXIF does not count.
    image.info["exif"] = metadata.tobytes()
    image.save(buffer, kind, quality=95, exif=metadata.tobytes())
    pixels = np.asarray(decode(buffer.getvalue()), np.int16)
    if orientation == 6:  # shown turned by a quarter to the right: what was left is above
        assert pixels.shape == (64, 48, 3)
        pixels = np.rot90(pixels)
    assert pixels.shape == (48, 64, 3)
    assert np.abs(pixels[:, 4:28] - (30, 60, 210)).mean() < 5
    assert np.abs(pixels[:, 36:60] - (200, 40, 40)).mean() < 5
