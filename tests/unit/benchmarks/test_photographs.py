"""The photographs for the comparison of servers: distinct JPEGs of one size, the same in every call."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.photographs import PIECES, main, photographs
from raycls.benchmark.images import read_images
from raycls.errors import UsageError


def test_the_pieces_are_distinct_and_the_same_in_every_call(tmp_path: Path):
    for name in ("once", "again"):
        main([str(tmp_path / name)])
    once, again = (read_images(tmp_path / name) for name in ("once", "again"))
    assert [image.body for image in once] == [image.body for image in again]
    assert len({image.body for image in once}) == len(once) == PIECES * len(photographs())
    assert {image.label for image in once} == set(photographs())
    assert {image.content_type for image in once} == {"image/jpeg"}


def test_an_existing_folder_is_not_changed(tmp_path: Path):
    with pytest.raises(UsageError, match="give a new folder"):
        main([str(tmp_path)])
    assert not list(tmp_path.iterdir())
