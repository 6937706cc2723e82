"""The columns of the scores, and the files that hold them.

    rows = Rows(plan, card.classes)
    rows.add(["cat/1.jpg"], [sha256], [None], probabilities, embeddings)
    file = rows.file()                       # Parquet or CSV, as the plan says

A picture that cannot be read has a row with `error` and nothing but nulls beside its path and its SHA-256. CSV has no
lists: `top_k` and `embedding` are JSON there. This module knows arrays and no pictures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from raycls.scoring.ledger import Format, Plan, parquet_bytes

CLASS = pa.struct({"class_index": pa.int32(), "class_name": pa.string(), "confidence": pa.float32()})


class Counts(NamedTuple):
    """Of some rows: how many, those with an error, and those that are rejected."""

    pictures: int = 0
    errors: int = 0
    rejected: int = 0

    def plus(self, other: Counts) -> Counts:
        return Counts(*map(sum, zip(self, other, strict=True)))


class Rows:
    """The scores of one part. classes: in the order of the model's card. limits: of `Rejection.limits`, or None."""

    def __init__(self, plan: Plan, classes: Sequence[str]):
        self._plan = plan
        self._classes = pa.array(classes)
        self._limits = plan.rejection.limits(classes) if plan.rejection else None
        self._rejected = 0
        self._names: list[str] = []
        self._digests: list[str | None] = []
        self._errors: list[str | None] = []
        self._indices: list[np.ndarray] = []  # int64 n×k, by falling confidence
        self._confidences: list[np.ndarray] = []  # float32 n×k
        self._embeddings: list[np.ndarray] = []  # float32 n×D

    def add(
        self,
        names: Sequence[str],
        digests: Sequence[str | None],
        errors: Sequence[str | None],
        probabilities: np.ndarray,
        embeddings: np.ndarray,
    ) -> None:
        """Add pictures, in order. probabilities (float32 n×C), embeddings (float32 n×D): of those without an error."""
        self._names += names
        self._digests += digests
        self._errors += errors
        if len(probabilities):
            most = np.argsort(-probabilities, axis=1, kind="stable")[:, : max(1, self._plan.top_k)]
            self._indices.append(most)
            self._confidences.append(np.take_along_axis(probabilities, most, axis=1))
            if self._limits is not None:
                best = self._confidences[-1][:, 0], self._limits[most[:, 0]]
                self._rejected += int((best[0] < best[1]).sum())
            if self._plan.embedding:
                self._embeddings.append(embeddings)

    def table(self) -> pa.Table:
        """Return the rows as a table. `rejected` is a column where the version has thresholds."""
        readable = np.array([error is None for error in self._errors])
        indices = np.concatenate(self._indices) if self._indices else np.empty((0, 1), np.int64)
        confidences = np.concatenate(self._confidences) if self._confidences else np.empty((0, 1), np.float32)
        # Where the value of each row is among those of the readable ones.
        place = pa.array(np.cumsum(readable) - 1, mask=~readable)
        best = pa.array(indices[:, 0], pa.int32())
        columns = {
            "path": pa.array(self._names, pa.string()),
            "sha256": pa.array(self._digests, pa.string()),
            "class": self._classes.take(best).take(place),
            "class_index": best.take(place),
            "confidence": pa.array(confidences[:, 0]).take(place),
        }
        if self._plan.top_k:
            columns["top_k"] = self._likeliest(indices, confidences).take(place)
        if self._limits is not None:
            rejected = confidences[:, 0] < self._limits[indices[:, 0]]
            columns["rejected"] = pa.array(rejected, pa.bool_()).take(place)
        number = self._plan.version.rpartition("/")[2]
        columns["model_version"] = pa.array([number] * len(self._names), pa.string())
        columns["error"] = pa.array(self._errors, pa.string())
        if self._plan.embedding:
            columns["embedding"] = self._embedded().take(place)
        table = pa.table(columns)
        return table.replace_schema_metadata(
            {"raycls.model": self._plan.version, "raycls.sha256": self._plan.sha256}
        )

    def counts(self) -> Counts:
        """Return what the rows hold."""
        errors = sum(error is not None for error in self._errors)
        return Counts(len(self._names), errors, self._rejected)

    def file(self) -> bytes:
        """Return the rows as a file of the plan's format."""
        table = self.table()
        if self._plan.format == "parquet":
            return parquet_bytes(table)
        for name in {"top_k", "embedding"} & set(table.column_names):
            texts = [None if value is None else json.dumps(value) for value in table[name].to_pylist()]
            table = table.set_column(table.schema.get_field_index(name), name, pa.array(texts, pa.string()))
        sink = pa.BufferOutputStream()
        csv.write_csv(table, sink)
        return sink.getvalue().to_pybytes()

    def _likeliest(self, indices: np.ndarray, confidences: np.ndarray) -> pa.Array:
        index = pa.array(indices.ravel(), pa.int32())
        values = [index, self._classes.take(index), pa.array(confidences.ravel())]
        entries = pa.StructArray.from_arrays(values, fields=list(CLASS))
        return pa.ListArray.from_arrays(_offsets(*indices.shape), entries)

    def _embedded(self) -> pa.Array:
        found = np.concatenate(self._embeddings) if self._embeddings else np.empty((0, 1), np.float32)
        return pa.ListArray.from_arrays(_offsets(*found.shape), pa.array(found.ravel()))


def counts(file: bytes, kind: Format) -> Counts:
    """Return what a file of scores holds."""
    if kind == "parquet":
        source = pa.BufferReader(file)
        columns = set(pq.read_schema(source).names) & {"error", "rejected"}
        table = pq.read_table(source, columns=sorted(columns))
    else:
        text = csv.ConvertOptions(column_types={"error": pa.string()}, strings_can_be_null=True)
        lines = csv.ParseOptions(newlines_in_values=True)
        table = csv.read_csv(pa.BufferReader(file), parse_options=lines, convert_options=text)
    rejected = table["rejected"].to_pylist().count(True) if "rejected" in table.column_names else 0
    return Counts(len(table), len(table) - table["error"].null_count, rejected)


def _offsets(count: int, width: int) -> pa.Array:
    return pa.array(np.arange(count + 1) * width, pa.int32())
