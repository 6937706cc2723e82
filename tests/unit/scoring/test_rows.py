"""The columns of the scores: what a row has, also one with an error, and what is counted."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow import csv

from raycls.engines.rejection import Rejection
from raycls.scoring.ledger import Format, Plan
from raycls.scoring.parts import PartSize
from raycls.scoring.rows import Counts, Rows, counts

CLASSES = ("ant", "bee", "cat")
PROBABILITIES = np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4]], np.float32)
EMBEDDINGS = np.array([[1, 2], [3, 4]], np.float32)
REJECTION = Rejection(
    precision=0.9, threshold=0.45, engine="reference", dataset="pets", images=10, answered=8, right=8
)


def rows_of(
    kind: Format, *, top_k: int = 2, rejection: Rejection | None = None, embedding: bool = False
) -> Rows:
    plan = Plan(
        model="pets",
        version="pets/3",
        sha256="0" * 64,
        engine="reference",
        rejection=rejection,
        source="photos",
        source_digest="",
        format=kind,
        top_k=top_k,
        embedding=embedding,
        part=PartSize(),
        begun="now",
    )
    rows = Rows(plan, CLASSES)
    errors = [None, 'a "comma", and\na line', None]
    rows.add(["a.png", "b,.png", "c.png"], ["aa", "bb", "cc"], errors, PROBABILITIES, EMBEDDINGS)
    rows.add(["d.png"], [None], ["gone"], np.empty((0, 3), np.float32), np.empty((0, 2), np.float32))
    return rows


def test_the_rows_of_a_part_are_in_order_and_those_with_errors_have_nulls() -> None:
    table = rows_of("parquet").table()
    assert table.column_names == [
        "path", "sha256", "class", "class_index", "confidence", "top_k", "model_version", "error",
    ]  # fmt: skip
    first, second, third, fourth = table.to_pylist()
    assert (first["class"], first["class_index"], first["model_version"]) == ("bee", 1, "3")
    assert first["confidence"] == np.float32(0.5)
    assert first["top_k"] == [
        {"class_index": 1, "class_name": "bee", "confidence": np.float32(0.5)},
        {"class_index": 2, "class_name": "cat", "confidence": np.float32(0.3)},
    ]
    # Of equal confidences the first class counts, as in an answer over HTTP.
    assert [each["class_name"] for each in third["top_k"]] == ["ant", "cat"]
    for row, digest in ((second, "bb"), (fourth, None)):
        assert row["sha256"] == digest
        assert row["error"]
        assert {row[name] for name in ("class", "class_index", "confidence")} == {None}
        assert row["top_k"] is None


def test_more_classes_than_there_are_is_all_of_them_and_zero_is_no_column() -> None:
    assert [each["class_index"] for each in rows_of("parquet", top_k=9).table().to_pylist()[0]["top_k"]] == [
        1,
        2,
        0,
    ]
    assert "top_k" not in rows_of("parquet", top_k=0).table().column_names


def test_a_version_with_thresholds_has_a_column_that_says_what_is_rejected() -> None:
    rows = rows_of("parquet", rejection=REJECTION)
    assert rows.table()["rejected"].to_pylist() == [False, None, True, None]
    assert rows.counts() == Counts(4, 2, 1)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize("rejection", [None, REJECTION])
def test_what_a_file_holds_can_be_counted(kind: Format, rejection: Rejection | None) -> None:
    rows = rows_of(kind, rejection=rejection, embedding=True)
    assert counts(rows.file(), kind) == rows.counts() == Counts(4, 2, 1 if rejection else 0)


def test_csv_has_json_where_parquet_has_lists() -> None:
    rows = rows_of("csv", embedding=True, rejection=REJECTION)
    lists = rows.table().to_pylist()
    options = csv.ParseOptions(newlines_in_values=True)
    found = csv.read_csv(pa.BufferReader(rows.file()), parse_options=options).to_pylist()
    assert [row["path"] for row in found] == [row["path"] for row in lists]
    assert json.loads(found[0]["embedding"]) == lists[0]["embedding"] == [1, 2]
    assert [each["class_name"] for each in json.loads(found[0]["top_k"])] == ["bee", "cat"]


def test_a_part_of_errors_alone_has_the_columns_of_any_other() -> None:
    """Otherwise a folder of such files could not be read as one table."""
    plan = rows_of("parquet", embedding=True)._plan
    none = Rows(plan, CLASSES)
    none.add(["x"], [None], ["gone"], np.empty((0, 3), np.float32), np.empty((0, 0), np.float32))
    read = [
        pq.read_table(pa.BufferReader(rows.file())) for rows in (none, rows_of("parquet", embedding=True))
    ]
    assert read[0].schema.equals(read[1].schema)
