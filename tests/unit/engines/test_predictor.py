"""One preprocessing and one predictor: what serving feeds the network is what evaluation feeds it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from raycls.data.packed import PackedDataset
from raycls.data.tensors import normalize
from raycls.engines.predictor import Predictor, softmax
from raycls.errors import ImageError, NotAnImageError
from raycls.models import checkpoint
from raycls.training.evaluation import evaluate


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def test_a_decoded_png_is_byte_for_byte_the_packed_image(directory: Path, digits: PackedDataset) -> None:
    predictor = Predictor.load(directory)
    images = digits.images("test")[:20]
    served = np.stack([predictor.read(_png(pixels)) for pixels in images])
    assert served.tobytes() == images.tobytes()


def test_predict_agrees_with_evaluation(directory: Path, digits: PackedDataset) -> None:
    predictor = Predictor.load(directory)
    images, labels = digits.images("test"), digits.labels("test")
    answers = predictor.predict([_png(pixels) for pixels in images])
    accuracy = np.mean([a.class_index == label for a, label in zip(answers, labels, strict=True)])
    evaluation = evaluate(predictor, digits, "test")
    assert accuracy == pytest.approx(evaluation.accuracy)
    assert evaluation.accuracy > 0.5
    assert evaluation.confusion.sum() == len(labels)
    assert set(evaluation.class_accuracy) == set(digits.info.classes)


def test_a_batch_answers_as_single_images_do(directory: Path, digits: PackedDataset) -> None:
    predictor = Predictor.load(directory, engine="reference")
    images = digits.images("test")[:10]
    together = predictor.probabilities(images)
    alone = np.concatenate([predictor.probabilities(images[i : i + 1]) for i in range(10)])
    assert np.allclose(together, alone, atol=1e-5)
    assert np.allclose(together.sum(1), 1, atol=1e-5)


def test_the_answer_follows_the_contract(directory: Path, digits: PackedDataset) -> None:
    (prediction,) = Predictor.load(directory).predict([_png(digits.images("test")[0])])
    answer = prediction.as_json()
    assert set(answer) == {"class_index", "class_name", "confidence"}
    assert digits.info.classes[answer["class_index"]] == answer["class_name"]
    top = prediction.as_json(top_k=3)["top_k"]
    assert top[0] == answer
    assert [entry["confidence"] for entry in top] == sorted((e["confidence"] for e in top), reverse=True)
    assert len(prediction.as_json(top_k=99)["top_k"]) == 10


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_the_temperature_changes_confidences_and_no_answer(
    directory: Path, digits: PackedDataset, temperature: float
) -> None:
    raw = Predictor.load(directory, engine="reference")
    calibrated = raw.at_temperature(temperature)
    images = digits.images("test")[:50]
    logits, embeddings = raw.outputs(images)
    scaled, same = calibrated.outputs(images)
    assert scaled == pytest.approx(logits / temperature, abs=1e-5)
    assert np.array_equal(same, embeddings)
    found = calibrated.probabilities(images)
    assert found == pytest.approx(softmax(logits / temperature), abs=1e-6)
    assert np.array_equal(found.argmax(1), raw.probabilities(images).argmax(1))
    assert (found.max(1) > raw.probabilities(images).max(1)).all() == (temperature < 1)
    encoded = [_png(pixels) for pixels in images]
    assert [each.confidence for each in calibrated.predict(encoded)] == pytest.approx(found.max(1), abs=1e-6)


def test_a_prediction_carries_the_embedding_and_tells_it_when_asked(
    directory: Path, digits: PackedDataset
) -> None:
    predictor = Predictor.load(directory, engine="reference")
    network, card = checkpoint.load(directory)
    images = np.array(digits.images("test")[:3])
    with torch.no_grad():
        expected = network.embed(normalize(torch.from_numpy(images), card.mean, card.std)).numpy()
    predictions = predictor.predict([_png(pixels) for pixels in images])
    for prediction, row in zip(predictions, expected, strict=True):
        assert prediction.embedding.dtype == np.float32
        assert prediction.embedding == pytest.approx(row, abs=1e-4)
        assert "embedding" not in prediction.as_json()
        assert prediction.as_json(embedding=True)["embedding"] == prediction.embedding.tolist()


def test_no_images_give_no_answers(directory: Path) -> None:
    assert Predictor.load(directory).predict([]) == []


def test_an_unreadable_image_is_reported(directory: Path, digits: PackedDataset) -> None:
    predictor = Predictor.load(directory)
    good = _png(digits.images("test")[0])
    with pytest.raises(NotAnImageError):
        predictor.predict([good, b"%PDF-1.7"])
    with pytest.raises(ImageError, match="truncated"):
        predictor.predict([good[: len(good) // 2]])


def test_evaluation_feeds_the_network_normalised_pixels(directory: Path, digits: PackedDataset) -> None:
    predictor = Predictor.load(directory, engine="reference")
    network, _ = checkpoint.load(directory)
    images = digits.images("test")[:5]
    inputs = normalize(torch.from_numpy(np.array(images)), digits.info.mean, digits.info.std)
    with torch.no_grad():
        assert network(inputs).numpy() == pytest.approx(predictor.logits(images), abs=1e-5)
