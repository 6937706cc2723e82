"""Where a part ends."""

from __future__ import annotations

from raycls.data.sources.pictures import MISSING, Picture
from raycls.scoring.parts import PartSize, divided


def files(count: int, size: int) -> list[Picture]:
    return [Picture(f"{index}.png", ("file", f"{index}.png", size, 0)) for index in range(count)]


def lengths(pictures: list[Picture], size: PartSize) -> list[int]:
    parts = list(divided(pictures, size))
    assert [picture for part in parts for picture in part] == pictures
    return [len(part) for part in parts]


def test_small_pictures_are_divided_by_their_number() -> None:
    assert lengths(files(25, 1000), PartSize(pictures=10)) == [10, 10, 5]
    assert lengths(files(20, 1000), PartSize(pictures=10)) == [10, 10]
    assert lengths([], PartSize()) == []


def test_large_pictures_are_divided_by_their_bytes() -> None:
    assert lengths(files(10, 1 << 20), PartSize(megabytes=4, least=1)) == [4, 4, 2]


def test_a_part_has_so_many_pictures_however_large_they_are() -> None:
    assert lengths(files(7, 1 << 30), PartSize(megabytes=4, least=3)) == [3, 3, 1]


def test_a_row_group_is_not_cut_where_a_file_would_be() -> None:
    """A second part would read the row group from its start again."""
    group = [Picture(str(row), ("parquet", "a.parquet", 0, "bytes", row, 0)) for row in range(25)]
    assert lengths(group, PartSize(pictures=10)) == [25]
    assert lengths(group, PartSize(pictures=10, in_sequence=20)) == [20, 5]
    other = [Picture(str(row), ("parquet", "a.parquet", 1, "bytes", row, 0)) for row in range(5)]
    assert lengths(group[:12] + other, PartSize(pictures=10)) == [12, 5]


def test_what_is_missing_counts_as_a_picture() -> None:
    assert lengths([Picture("x", (MISSING, "gone"))] * 3, PartSize(pictures=2)) == [2, 1]
