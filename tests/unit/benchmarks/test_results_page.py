"""Results pages: an interrupted measurement changes no page, and the page names the CPU of each part."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import results_page
from harness.results_page import Document

from raycls.errors import BenchmarkError


def growing(count: int, broken: bool = False) -> Iterator[Document]:
    rows: list[results_page.Row] = []
    for number in range(count):
        rows.append({"number": number})
        yield results_page.document("part", {}, rows)
    if broken:
        raise KeyboardInterrupt


def test_a_growing_document_replaces_its_file_at_the_end(tmp_path: Path):
    file, document = results_page.keep_last(tmp_path, "kind", growing(3))
    assert json.loads(file.read_text()) == document
    assert [row["number"] for row in document["rows"]] == [0, 1, 2]
    assert [path.name for path in file.parent.iterdir()] == ["part.json"]


def test_an_interrupted_document_is_kept_beside_the_older_file(tmp_path: Path):
    file, former = results_page.keep_last(tmp_path, "kind", growing(3))
    with pytest.raises(KeyboardInterrupt):
        results_page.keep_last(tmp_path, "kind", growing(2, broken=True))
    assert json.loads(file.read_text()) == former
    assert len(json.loads(file.with_suffix(".partial").read_text())["rows"]) == 2


def test_a_measurement_without_rows_is_an_error(tmp_path: Path):
    with pytest.raises(BenchmarkError, match="nothing was measured"):
        results_page.keep_last(tmp_path, "kind", growing(0))


def test_the_page_names_the_parts_that_another_cpu_measured():
    def measured(name: str, cpu: str, date: str) -> Document:
        return results_page.document(name, {}, []) | {"hardware": {"CPU": cpu}, "versions": {}, "date": date}

    documents = [
        measured("new", "AMD EPYC (family 25, model 17)", "2026-11-22"),
        measured("old", "AMD EPYC", "2026-11-20"),
        measured("other", "AMD EPYC (family 26, model 2)", "2026-11-21"),
    ]
    page = results_page.markdown({document["name"]: document for document in documents}, "# Head", {})
    assert "| CPU | AMD EPYC (family 25, model 17) |" in page
    assert "| another CPU | AMD EPYC (family 26, model 2): other |" in page
    assert "old" not in page
