"""What a replica sums up for drift, and the gauges that it reports."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from raycls.data.packed import PackedDataset
from raycls.drift import file
from raycls.drift.reference import make
from raycls.drift.window import Window, WindowSums
from raycls.engines.predictor import Prediction, Predictor
from raycls.models.card import DRIFT, sha256
from raycls.registry import ModelVersion
from raycls.serving.replica.drift_sums import CHUNK, CHUNKS, DriftSums
from raycls.serving.replica.inference import Inference
from raycls.serving.replica.metrics import exposition
from raycls.serving.settings import ServingConfig
from tests.unit.drift.pictures import batch

FOUND = {
    "version": "pets/6",
    "images": 2000,
    "findings": [
        {"feature": "brightness", "effect": 1.5, "alarm": True},
        {"feature": "class", "effect": 0.0, "alarm": False},
    ],
}


def _png(pixels: np.ndarray, size: tuple[int, int]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).resize(size).save(buffer, "PNG")
    return buffer.getvalue()


def _version(directory: Path) -> ModelVersion:
    return ModelVersion(
        name="digits",
        version="1",
        aliases=(),
        run_id="",
        uri=str(directory),
        sha256=sha256(directory),
        fingerprint="",
        metrics={},
        tags={},
    )


def _same(one: WindowSums, other: WindowSums) -> bool:
    a, b = one.as_json(), other.as_json()
    fourier = np.allclose(a.pop("fourier"), b.pop("fourier"), atol=1e-3)
    return fourier and json.dumps(a) == json.dumps(b)


def _total(chunks: list[dict[str, Any]]) -> WindowSums:
    first, *others = map(WindowSums.from_json, chunks)
    for chunk in others:
        first += chunk
    return first


@pytest.fixture
def checkpoint(directory: Path, digits: PackedDataset, tmp_path: Path) -> Path:
    path = Path(shutil.copytree(directory, tmp_path / "checkpoint"))
    file.write(path, Predictor.load(path), digits)
    return path


def test_a_replica_sums_up_the_images_that_it_answers(checkpoint: Path, digits: PackedDataset) -> None:
    """The sums are those of a window over the same images, with the sizes that they had when they came."""
    pixels = digits.images("test")[:60]
    sizes = [(8, 8), (16, 12), (30, 40)] * 20
    sent = [_png(each, size) for each, size in zip(pixels, sizes, strict=True)]
    config = ServingConfig(engine="reference", max_batch_size=16)

    async def answered() -> tuple[list[Any], Inference]:
        inference = Inference(config, _version(checkpoint), "a")
        return await inference.run([*sent[:30], b"no image", *sent[30:]], lambda: True), inference

    outcomes, inference = asyncio.run(answered())
    predictions = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
    assert len(predictions) == 60
    assert inference.drift is not None
    chunks = inference.drift.exchange(None)
    assert inference.drift.exchange(None) == []

    reference = file.read(checkpoint)
    assert reference is not None
    window = Window(reference)
    window.update(
        np.stack([each.probabilities for each in predictions]),
        np.stack([each.embedding for each in predictions]),
        np.stack([inference.decode(data) for data in sent]),
        np.array(sizes),
    )
    assert _same(_total(chunks), window.take())


@pytest.mark.parametrize("missing", ["setting", "reference", "readable reference"])
def test_without_its_setting_or_reference_a_replica_answers_all_the_same(
    checkpoint: Path, digits: PackedDataset, missing: str
) -> None:
    if missing == "reference":
        (checkpoint / DRIFT).unlink()
    elif missing == "readable reference":
        (checkpoint / DRIFT).write_bytes(b"{")
    config = ServingConfig(engine="reference", max_batch_size=4, drift=missing != "setting")

    async def answered() -> tuple[list[Any], Inference]:
        inference = Inference(config, _version(checkpoint), "a")
        return await inference.run([_png(digits.images("test")[0], (8, 8))], lambda: True), inference

    (outcome,), inference = asyncio.run(answered())
    assert isinstance(outcome, Prediction)
    assert inference.drift is None


def test_chunks_have_the_same_size_and_there_are_no_more_than_a_window_needs() -> None:
    drift = DriftSums(make(*batch(200, 0)))
    probabilities, embeddings, images, sizes = batch(60, 1)
    for _ in range((CHUNK * (CHUNKS + 2)) // 60 + 1):
        drift.add(probabilities, embeddings, images, sizes.tolist())
    assert not drift.has_room
    assert [chunk["images"] for chunk in drift.exchange(None)] == [CHUNK] * CHUNKS
    assert drift.has_room
    drift.add(probabilities, embeddings, images, sizes.tolist())
    assert [chunk["images"] for chunk in drift.exchange(None)] == [60]


def test_an_error_is_logged_once_and_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    drift = DriftSums(make(*batch(200, 0)))
    probabilities, embeddings, images, sizes = batch(5, 1)
    with caplog.at_level(logging.ERROR, "ray.serve"):
        logging.getLogger("ray.serve").addHandler(caplog.handler)
        try:
            for number in range(60):  # the sums are made for many batches at once, or when they are asked for
                drift.add(probabilities[:, :2], embeddings[:, :2], images, sizes.tolist())
                if number % 20 == 0:
                    assert drift.exchange(None) == []
        finally:
            logging.getLogger("ray.serve").removeHandler(caplog.handler)
    assert len({record.created for record in caplog.records}) == 1


def test_the_last_window_is_reported_as_gauges() -> None:
    drift = DriftSums(make(*batch(200, 0)))
    assert [sample for family in drift.families() for sample in family.samples] == []
    drift.exchange(FOUND)
    text = bytes(exposition([drift.families()]).body).decode()
    found = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert found["raycls_drift_effect", "brightness"] == 1.5
    assert found["raycls_drift_alarm", "brightness"] == 1
    assert found["raycls_drift_alarm", "class"] == 0
    assert found["raycls_drift_images",] == 2000
