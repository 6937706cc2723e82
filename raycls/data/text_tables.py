"""Reads tables that are text, CSV and JSON lines, in blocks, so that a large one never is in memory as a whole.

    for columns in text_blocks("pets.csv", ("path", "label")): …      # {"path": […], "label": […]} of some rows

Columns that the table does not have are not in the blocks. This module knows rows and no images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from raycls.data.files import open_file

BLOCK = 32 << 20  # bytes: no row may be longer


def text_blocks(path: str, columns: tuple[str, ...]) -> Iterator[dict[str, list[Any]]]:
    """Yield the values of some columns, block by block, for a path that ends in .csv, .jsonl or .ndjson.

    Raises OSError and ValueError, pyarrow's own among them.
    """
    import pyarrow as pa

    # Two files: pyarrow reads ahead, so that a reader may move its file even after it has been left.
    names = tuple(name for name in column_names(path) if name in columns)
    with open_file(path) as file, _opened(path)(file, names) as reader:
        for block in reader:
            yield {name: block.column(name).to_pylist() for name in names}
            # Otherwise pyarrow keeps much of what it has freed.
            pa.default_memory_pool().release_unused()


def column_names(path: str) -> list[str]:
    """Return the names of a table's columns; of JSON lines, those of the first block. Raises as `text_blocks`."""
    with open_file(path) as file, _opened(path)(file, None) as reader:
        return reader.schema.names


def _opened(path: str) -> Callable[[BinaryIO, tuple[str, ...] | None], Any]:
    return _csv if path.partition("?")[0].lower().endswith(".csv") else _json_lines


def _csv(file: BinaryIO, columns: tuple[str, ...] | None) -> Any:
    """Return pyarrow's reader of these columns, as text; None: of all, for their names."""
    from pyarrow import csv, string

    reading = csv.ReadOptions(block_size=BLOCK, use_threads=False)
    if columns is None:
        return csv.open_csv(file, reading)
    converting = csv.ConvertOptions(
        include_columns=list(columns), column_types=dict.fromkeys(columns, string())
    )
    return csv.open_csv(file, reading, convert_options=converting)


def _json_lines(file: BinaryIO, columns: tuple[str, ...] | None) -> Any:
    """Return pyarrow's reader. It has no choice of columns that leaves their types open."""
    from pyarrow import json

    return json.open_json(file, json.ReadOptions(block_size=BLOCK, use_threads=False))
