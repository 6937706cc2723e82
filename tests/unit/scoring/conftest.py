"""A task of scoring, without Ray and without MLflow: a small model of digits, and pictures in a folder."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from raycls.data.packed import PackedDataset
from raycls.data.sources.pictures import find
from raycls.engines.rejection import Rejection
from raycls.models.card import sha256
from raycls.registry.model_version import ModelVersion
from raycls.scoring.ledger import Ledger, Plan
from raycls.scoring.listing import list_parts
from raycls.scoring.parts import PartSize
from raycls.scoring.rows import Counts
from raycls.scoring.scorer import Scorer, Task

MakeTask = Callable[..., Task]


@pytest.fixture
def version(directory: Path) -> ModelVersion:
    return ModelVersion(
        name="digits",
        version="7",
        aliases=(),
        run_id="",
        uri=str(directory),
        sha256=sha256(directory),
        fingerprint="",
        metrics={},
        tags={},
    )


@pytest.fixture
def make_task(version: ModelVersion, tmp_path: Path) -> MakeTask:
    """Begin the scoring of a source into `tmp_path/scores`, as `score` does before it starts Ray."""

    def make(
        source: Path | str,
        *,
        size: PartSize | None = None,
        rejection: Rejection | None = None,
        **options: Any,
    ) -> Task:
        found = find(str(source))
        chosen = {"format": "parquet", "top_k": 3, "embedding": False, "engine": "reference"} | options
        plan = Plan(
            model="digits",
            version=version.reference,
            sha256=version.sha256,
            rejection=rejection,
            source=found.shown,
            source_digest=found.digest,
            part=size or PartSize(),
            begun="2026-01-01 00:00:00",
            **chosen,  # type: ignore[arg-type]
        )
        output = str(tmp_path / "scores")
        Ledger(output).begin(plan)
        return Task(found, output, plan, version, device="cpu", threads=1, give_way=False)

    return make


def score_all(task: Task) -> Counts:
    """Score every part of a task in this process."""
    scorer, total = Scorer(task), Counts()
    for number in list_parts(task.source, Ledger(task.output)):
        total = total.plus(scorer.score(number))
    return total


def scores_of(task: Task) -> list[dict[str, Any]]:
    """Return all rows, in the order of the listing."""
    files = sorted(Path(task.output).glob("part-*"))
    return pa.concat_tables([pq.read_table(file) for file in files]).to_pylist()


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def photos(digits: PackedDataset, tmp_path: Path) -> Path:
    """A folder of 30 pictures of digits in folders of ten, and of files that are none."""
    folder = tmp_path / "photos"
    for index, pixels in enumerate(digits.images("test")[:30]):
        file = folder / f"{index // 10}" / f"{index:02}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(png(pixels))
    (folder / "0" / "empty.png").touch()
    (folder / "0" / "notes.txt").write_text("no picture")
    (folder / "1" / "cut.png").write_bytes(png(np.asarray(digits.images("test")[0]))[:60])
    (folder / "1" / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "1" / ".DS_Store").write_bytes(b"litter")
    return folder


@pytest.fixture
def table(photos: Path) -> Path:
    """A table beside the folder, with two pictures, one that is not there, and a row without a path."""
    file = photos.with_name("list.parquet")
    pq.write_table(
        pa.table({"path": ["photos/0/00.png", str(photos / "0/01.png"), "nowhere.png", None]}), file
    )
    return file
