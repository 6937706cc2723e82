"""The photographs that servers are compared on: distinct JPEGs of one size, the same each time."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.photographs import PIECES, main, photographs
from raycls.benchmark.images import read_images
from raycls.errors import UsageError


def test_pieces_of_every_photograph_are_distinct_and_the_same_each_time(tmp_path: Path):
    for name in ("once", "again"):
        main([str(tmp_path / name)])
    once, again = (read_images(tmp_path / name) for name in ("once", "again"))
    assert [image.body for image in once] == [image.body for image in again]
    assert len({image.body for image in once}) == len(once) == PIECES * len(photographs())
    assert {image.label for image in once} == set(photographs())
    assert {image.content_type for image in once} == {"image/jpeg"}


def test_a_folder_that_exists_is_left_as_it_is(tmp_path: Path):
    with pytest.raises(UsageError, match="name a new folder"):
        main([str(tmp_path)])
    assert not list(tmp_path.iterdir())
