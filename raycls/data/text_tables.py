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

    with open_file(path) as file, _opened(path)(file, columns) as reader:
        names = [name for name in reader.schema.names if name in columns]
        for block in reader:
            yield {name: block.column(name).to_pylist() for name in names}
            # Otherwise pyarrow keeps much of what it has freed.
            pa.default_memory_pool().release_unused()


def column_names(path: str) -> list[str]:
    """Return the names of a table's columns; of JSON lines, those of the first block. Raises as `text_blocks`."""
    with open_file(path) as file, _opened(path)(file, ()) as reader:
        return reader.schema.names


def _opened(path: str) -> Callable[[BinaryIO, tuple[str, ...]], Any]:
    return _csv if path.partition("?")[0].lower().endswith(".csv") else _json_lines


def _csv(file: BinaryIO, columns: tuple[str, ...]) -> Any:
    from pyarrow import csv, string

    header = csv.open_csv(file, csv.ReadOptions(block_size=BLOCK)).schema.names
    file.seek(0)
    return csv.open_csv(
        file,
        csv.ReadOptions(block_size=BLOCK, use_threads=False),
        convert_options=csv.ConvertOptions(
            include_columns=[name for name in header if name in columns] or None,
            column_types=dict.fromkeys(columns, string()),
        ),
    )


def _json_lines(file: BinaryIO, columns: tuple[str, ...]) -> Any:
    from pyarrow import json

    return json.open_json(file, json.ReadOptions(block_size=BLOCK, use_threads=False))
