"""Tables that name images: CSV, JSON lines or Parquet.

    listing = list_table("pets.csv")       # path,label    cat/1.jpg,cat
    for name, where in rows_in_order("pets.parquet"): …       # without labels, and not all in memory

The columns are `path` (in the table's folder, absolute, or a URI) or `bytes` (base64 in CSV and JSON lines), `label`,
and if the table has them `split` and `group`. A Parquet file of Hugging Face has `image`, a record with `bytes`. This
module reads the columns with names, labels, splits and groups, and no image.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from raycls.data.class_names import printable
from raycls.data.files import changed_ns, files_below, is_uri, join, open_file, shown
from raycls.data.listing import SPLIT_NAMES, Listing, Where
from raycls.data.text_tables import column_names, text_blocks
from raycls.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

TABLES = (".csv", ".jsonl", ".ndjson", ".parquet")
PIXELS = ("bytes", "image")
MOST_PATHS = 65_536  # that are in memory at a time
SMALL = ("path", "label", "split", "group")  # columns that are read when a table is listed


def list_table(path: str) -> Listing:
    """Return the images of a table. Raises DataError, which names what the table lacks."""
    listing = Listing(source=path)
    with _readable(path):
        add_table(listing, path)
    if not listing.sources and not listing.left_out:
        raise DataError(f"{shown(path)} has no rows")
    return listing


@contextmanager
def _readable(path: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # pyarrow's errors are both
        raise DataError(shown(f"{path} cannot be read as a table: {str(error).splitlines()[0]}")) from error


def list_parquet_folder(folder: str) -> Listing:
    """Return the images of all Parquet files below a folder, as Hugging Face keeps a dataset.

    Where the table has no column for it, the name of a file begins with its split, as in train-00000-of-00002.parquet,
    or that of its folder does.
    """
    listing = Listing(source=folder)
    for file in parquet_files(folder):
        inside = file.partition("?")[0].removeprefix(folder.partition("?")[0])
        words = [part.split("-")[0].split(".")[0].lower() for part in inside.split("/")]
        split = next((SPLIT_NAMES[word] for word in reversed(words) if word in SPLIT_NAMES), None)
        with _readable(file):
            add_table(listing, file, split=split)
    return listing


def parquet_files(folder: str) -> list[str]:
    if is_uri(folder):
        return sorted(join(folder, path) for path, _, _ in files_below(folder) if path.endswith(".parquet"))
    return sorted(str(path) for path in Path(folder).rglob("*.parquet") if path.is_file())


def add_table(listing: Listing, path: str, *, split: str | None = None) -> None:
    """Add the rows of one table to a listing. split: of all rows, where the table has no such column."""
    is_parquet = path.partition("?")[0].lower().endswith(".parquet")
    names = _parquet_names(path) if is_parquet else column_names(path)
    if "label" not in names or not ({"path", *(PIXELS if is_parquet else ("bytes",))} & set(names)):
        raise DataError(
            f"{shown(path)} has the columns {', '.join(names)}: it needs label, and path or bytes. "
            + _advice(names)
        )
    columns, labels = _parquet_columns(path) if is_parquet else (_text_columns(path), None)
    count = len(columns["label"])
    name = Path(path.partition("?")[0]).name
    for row in range(count):
        label = named(columns["label"][row], labels)
        if not label:
            listing.leave_out(f"{name}, row {row}", "unreadable", "no label")
            continue
        where, source = _where(path, name, columns, row)
        own = columns["split"][row] if "split" in columns else split
        if own and str(own).lower() not in SPLIT_NAMES:
            raise DataError(
                f"{shown(path)}, row {row}: {own!r} is no split; the splits are train, val, gate and test"
            )
        group = columns["group"][row] if "group" in columns else ""
        listing.add(
            source=source,
            label=label,
            split=SPLIT_NAMES[str(own).lower()] if own else None,
            group="" if group is None else str(group),
            where=where,
        )


def rows_in_order(path: str) -> Iterator[tuple[str, Where]]:
    """Yield what each row of a table calls its image, and where that is: labels do not matter.

    A place from the column `path` is as the table has it: in the table's folder, absolute, or a URI. A row without one
    yields (). Raises DataError.
    """
    is_parquet = path.partition("?")[0].lower().endswith(".parquet")
    name = Path(unquote(path.partition("?")[0]) if is_uri(path) else path).name
    with _readable(path):
        columns = _parquet_names(path) if is_parquet else column_names(path)
        if "path" in columns:
            blocks = _parquet_paths(path) if is_parquet else text_blocks(path, ("path",))
            places = (place for block in blocks for place in block["path"])
            for row, place in enumerate(places):
                if place:
                    yield shown(printable(str(place))), ("file", str(place), 0, 0)
                else:
                    yield f"{name}, row {row}", ()
            return
        pixels = next((column for column in PIXELS if column in columns), None)
        if pixels is None or (pixels != "bytes" and not is_parquet):
            raise DataError(
                f"{shown(path)} has the columns {', '.join(columns)}: it needs path or bytes. "
                + _advice(columns)
            )
        wheres = _parquet_wheres(path, pixels) if is_parquet else _text_wheres(path)
        for row, where in enumerate(wheres):
            yield f"{name}, row {row}", where


def _advice(columns: list[str]) -> str:
    return "Separate the columns by commas" if any(";" in name for name in columns) else "Rename its columns"


def named(label: Any, names: list[str] | None) -> str:
    """Return the name of a label, or "" for a row without one, or one that is no text or number. -1 is none."""
    if names is None:
        return str(label) if isinstance(label, str | int | float) else ""
    return names[label] if isinstance(label, int) and 0 <= label < len(names) else ""


def _where(path: str, name: str, columns: dict[str, Any], row: int) -> tuple[Where, str]:
    if "path" in columns:
        image = str(columns["path"][row])
        if is_uri(image):
            return ("file", image, 0, 0), shown(image)
        if is_uri(path):
            folder = path.partition("?")[0].rpartition("/")[0] + (
                f"?{path.partition('?')[2]}" if "?" in path else ""
            )
            return ("file", join(folder, image), 0, 0), image
        file = Path(path).parent / image
        try:
            status = file.stat()
        except OSError:  # reading it says why
            return ("file", str(file), 0, 0), printable(image)
        return ("file", str(file), status.st_size, status.st_mtime_ns), printable(image)
    pixels = next(column for column in PIXELS if column in columns)
    where = columns[pixels][row]
    return where, f"{name}, row {row}"


def _text_columns(path: str) -> dict[str, Any]:
    """Return the columns of a table that is text, with places instead of images."""
    columns: dict[str, Any] = {"label": []}
    for block in text_blocks(path, SMALL):
        for name, values in block.items():
            columns.setdefault(name, []).extend(values)
    if "path" not in columns:
        changed = changed_ns(path)
        columns["bytes"] = [("text", path, 0, "bytes", row, changed) for row in range(len(columns["label"]))]
    return columns


def _text_wheres(path: str) -> Iterator[Where]:
    changed = changed_ns(path)
    values = (value for block in text_blocks(path, ("bytes",)) for value in block["bytes"])
    for row, _ in enumerate(values):
        yield "text", path, 0, "bytes", row, changed


def _parquet_paths(path: str) -> Iterator[dict[str, list[Any]]]:
    import pyarrow.parquet as pq

    with open_file(path) as file:
        # Otherwise pyarrow would hold the whole row group.
        for batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(MOST_PATHS, columns=["path"]):
            yield {"path": batch.column(0).to_pylist()}


def _parquet_wheres(path: str, column: str) -> Iterator[Where]:
    import pyarrow.parquet as pq

    changed = changed_ns(path)
    with open_file(path) as file:
        metadata = pq.read_metadata(file)
    for group in range(metadata.num_row_groups):
        for row in range(metadata.row_group(group).num_rows):
            yield "parquet", path, group, column, row, changed


def _parquet_names(path: str) -> list[str]:
    import pyarrow.parquet as pq

    with open_file(path) as file:
        return pq.read_schema(file).names


def _parquet_columns(path: str) -> tuple[dict[str, Any], list[str] | None]:
    """Return the columns of a Parquet file, with places instead of images, and the names of its labels or None."""
    import pyarrow.parquet as pq

    with open_file(path) as file:
        opened = pq.ParquetFile(file)
        schema = opened.schema_arrow
        small = [name for name in SMALL if name in schema.names]
        table = opened.read(columns=small)
        columns: dict[str, Any] = {name: table[name].to_pylist() for name in small}
        for name in PIXELS:
            if name in schema.names and "path" not in columns:
                columns[name] = list(_parquet_wheres(path, name))
        return columns, class_names(schema)


def class_names(schema: pa.Schema) -> list[str] | None:
    """Return the names of the labels' numbers, which `datasets` of Hugging Face writes into a schema."""
    import json

    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return features["label"]["names"]
    except (KeyError, TypeError, ValueError):
        return None
