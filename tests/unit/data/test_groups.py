"""Which images stay in one split: copies, near-duplicates and the user's groups."""

from __future__ import annotations

import hashlib
import io

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from raycls.data.decode import decode
from raycls.data.groups import Former, Groups, find_groups
from raycls.data.similarity import descriptors, perceptual_hashes
from raycls.data.splits import NEW
from raycls.data.transforms import to_square

SIDE = 48


def picture(seed: int, side: int = 120) -> Image.Image:
    """Random soft shapes: as unlike each other as photographs are."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def grouped(
    files: list[bytes],
    *,
    labels: list[int] | None = None,
    keys: list[str] | None = None,
    former: list[tuple[str, int]] | None = None,
) -> Groups:
    pixels = np.stack([to_square(decode(data, side=SIDE), SIDE) for data in files])
    count = len(files)
    groups, splits = zip(*(former or [("", NEW)] * count), strict=True)
    return find_groups(
        np.array([hashlib.sha256(data).hexdigest() for data in files]),
        perceptual_hashes(pixels),
        np.array(keys or [""] * count, dtype=object),
        np.array(labels or [0] * count),
        Former(np.array(groups, dtype=object), np.array(splits)),
        lambda chosen: pixels[chosen],
    )


def test_copies_of_other_size_compression_and_brightness_are_one_group():
    source = picture(0)
    copies = [
        encoded(source),
        encoded(source, "JPEG", quality=40),
        encoded(source.resize((80, 80)), "JPEG", quality=80),
        encoded(ImageEnhance.Brightness(source).enhance(1.15)),
    ]
    others = [encoded(picture(seed)) for seed in range(1, 20)]
    found = grouped(copies + others)
    assert len(set(found.names[:4])) == 1
    assert len(set(found.names)) == 1 + len(others)
    assert not found.left_out.any()


def test_unlike_pictures_are_alone():
    assert len(set(grouped([encoded(picture(seed)) for seed in range(100)]).names)) == 100


def test_the_users_groups_stay_together_with_what_is_like_one_of_them():
    files = [encoded(picture(0)), encoded(picture(1)), encoded(picture(1), "JPEG"), encoded(picture(2))]
    found = grouped(files, keys=["patient 7", "patient 7", "", ""])
    assert found.names[0] == found.names[1] == found.names[2] == "patient 7"
    assert found.names[3] != "patient 7"


def test_a_fixed_camera_does_not_make_one_group_of_a_class():
    """The pictures differ in noise and in a small spot alone: all are near-duplicates of all others."""
    random = np.random.default_rng(0)
    scene = np.asarray(picture(0)).astype(int)
    files = []
    for _ in range(40):
        shot = scene + random.integers(-8, 9, scene.shape)
        row, column = random.integers(10, 90, 2)
        shot[row : row + 14, column : column + 14] = 255
        files.append(encoded(Image.fromarray(np.clip(shot, 0, 255).astype(np.uint8))))
    found = grouped([*files, files[0]])
    sizes = np.unique(found.names, return_counts=True)[1]
    assert sizes.max() <= 20
    assert found.names[0] == found.names[-1], "the same bytes stay together all the same"


def test_what_is_new_joins_the_group_of_an_earlier_version():
    files = [encoded(picture(0)), encoded(picture(1)), encoded(picture(0), "JPEG", quality=60)]
    found = grouped(files, former=[("first", 3), ("second", 0), ("", NEW)])
    assert found.names.tolist() == ["first", "second", "first"]


def test_a_new_picture_like_those_of_two_splits_is_left_out():
    files = [
        encoded(picture(0)),
        encoded(picture(0), "JPEG", quality=80),
        encoded(picture(0), "JPEG", quality=60),
    ]
    found = grouped([*files, encoded(picture(5))], former=[("a", 0), ("b", 3), ("", NEW), ("", NEW)])
    assert found.left_out.tolist() == [False, False, True, False]
    assert found.names.tolist()[:2] == ["a", "b"]


def test_a_chain_of_new_pictures_between_two_splits_is_cut():
    files = [encoded(picture(seed)) for seed in range(5)]
    found = grouped(
        files,
        keys=["x", "x", "x", "y", "y"],
        former=[("x", 0), ("", NEW), ("", NEW), ("y", 3), ("", NEW)],
    )
    assert not found.left_out.any()
    # The fourth is new and a copy of one of group y, but the user says that it belongs to x.
    bridge = grouped(
        [files[0], files[3], files[3]], keys=["x", "y", "x"], former=[("x", 0), ("y", 3), ("", NEW)]
    )
    assert bridge.left_out.tolist() == [False, False, True]


def test_pictures_of_one_colour_have_nothing_in_common():
    flat = np.full((2, 16, 16, 3), 90, np.uint8)
    flat[1] = 200
    assert not descriptors(flat).any()


@pytest.mark.parametrize("side", [8, 33, 224])
def test_hashes_do_not_depend_on_the_size(side):
    images = np.stack([np.asarray(picture(seed).resize((side, side))) for seed in range(8)])
    base = np.stack([np.asarray(picture(seed).resize((64, 64))) for seed in range(8)])
    bits = np.bitwise_count(perceptual_hashes(images)[:, None] ^ perceptual_hashes(base)[None])
    own = np.diag(bits)
    assert own.max() <= (12 if side == 8 else 4)
    assert (bits + 64 * np.eye(8, dtype=int)).min() > own.max()


def test_a_group_that_straddled_before_does_not_stop_what_is_added():
    """As the source's own splits, or a table that got groups later, can have it."""
    files = [encoded(picture(seed)) for seed in range(3)]
    former = [("patient", 0), ("patient", 3), ("", NEW)]
    found = grouped(files, keys=["patient"] * 3, former=former)
    assert found.names.tolist() == ["patient"] * 3


def test_a_large_group_of_the_user_does_not_cut_the_links_of_copies():
    files = [encoded(picture(seed)) for seed in range(9)]
    copy = encoded(picture(0), "JPEG", quality=90)
    found = grouped([*files, copy], keys=["patient 1"] * 8 + ["patient 2"] + ["patient 3"])
    assert found.names[0] == found.names[-1]
    assert found.cut == 0
