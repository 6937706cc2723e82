"""The page of benchmarks/scale.py, what its kills compare, and its bare peer."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scale
from harness import results_page
from harness.scale_kills import compared
from harness.scale_scoring import PEERS, pictures_like

from raycls.data.packed import PackedDataset
from raycls.engines.predictor import Predictor
from raycls.errors import UsageError
from tests.product import png_of


@pytest.fixture
def pictures(digits: PackedDataset, tmp_path: Path) -> Path:
    for index, pixels in enumerate(np.array(digits.images("test")[:7])):
        (tmp_path / "few").mkdir(exist_ok=True)
        (tmp_path / "few" / f"{index}.png").write_bytes(png_of(pixels))
    return tmp_path / "few"


def peer(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PEERS / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_few_pictures_become_many_files_and_are_gone_afterwards(pictures: Path) -> None:
    with pictures_like(pictures, 20) as (copies, listed):
        files = listed.read_text().splitlines()
        assert len(files) == 20
        assert sorted(files) == sorted(str(path) for path in copies.rglob("*.png"))
        assert Path(files[8]).read_bytes() == (pictures / "1.png").read_bytes()
    assert not copies.exists()
    assert len(list(pictures.iterdir())) == 7
    (pictures.parent / "none").mkdir()
    with pytest.raises(UsageError, match="holds no file"), pictures_like(pictures.parent / "none", 3):
        pass


def test_rows_that_are_missing_or_there_twice_are_counted(tmp_path: Path) -> None:
    (tmp_path / "scores").mkdir()
    for number, paths in enumerate((["a.png", "b.png"], ["b.png", "x.png"])):
        pq.write_table(pa.table({"path": paths}), tmp_path / "scores" / f"part-{number}.parquet")
    files = [str(tmp_path / "photos" / name) for name in ("a.png", "b.png", "c.png")]
    found = compared(tmp_path / "photos", tmp_path / "scores", files)
    assert found == {"pictures": 3, "rows": 4, "twice": 1, "missing": 1, "foreign": 1}


def test_the_bare_peer_gives_the_predictors_answers(pictures: Path, directory: Path) -> None:
    (pictures / "broken.png").write_bytes(b"no picture")
    files = sorted(map(str, pictures.iterdir()))
    predictor = Predictor.load(directory, engine="reference", threads=1)
    expected = [
        answer.class_index for answer in predictor.predict([Path(file).read_bytes() for file in files[:7]])
    ]
    assert peer("bare").classify(predictor, files) == [*expected, -1]


def test_the_page_has_the_ratios_of_all_rounds_and_the_kills() -> None:
    rows: list[dict[str, Any]] = [
        {
            "pictures": 20_000,
            "raycls_per_s": 90.0 + number,
            "bare_per_s": 100.0,
            "dataloader_per_s": 30.0,
            "raycls_start_s": 11.0,
        }
        for number in range(3)
    ]
    arguments = {"label": "small", "engine": "openvino"}
    kills = {
        "kills": {"driver": 6, "actor": 14},
        "pictures": 5,
        "rows": 5,
        "twice": 0,
        "missing": 0,
        "foreign": 0,
    }
    documents = {
        "score-small": results_page.document("score-small", arguments, rows),
        "kills": results_page.document("kills", {}, [kills]),
        "nodes": results_page.document("nodes", {}, [{"nodes_1": 50.0, "nodes_2": 95.0}]),
    }
    page = results_page.markdown(documents, scale.HEAD, scale.SECTIONS)
    assert (
        "| small, 20,000 with openvino | 91 | 100 | **0.91** (0.90 to 0.92) | 30 | **3.03** (3.00 to 3.07) | 11.0 | 3 |"
        in page
    )
    assert "| 5 | 14 × actor, 6 × driver | 5 | 0 | 0 |" in page
    assert "| 50 | 95 | **1.90** (1.90 to 1.90) | 1 |" in page
