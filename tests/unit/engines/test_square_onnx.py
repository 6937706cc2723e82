"""A file that takes pictures of any size, run by ONNX Runtime beside Pillow, on photographs-like pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper
from PIL import Image
from sklearn.datasets import load_sample_image

from raycls.data.packed import PackedDataset
from raycls.data.transforms import RESIZES, Resize, to_square
from raycls.engines.export import export
from raycls.engines.predictor import Predictor, softmax
from raycls.engines.square_onnx import prepend
from raycls.errors import UsageError

SIZES = ((64, 64), (64, 90), (300, 200), (203, 300), (640, 427), (31, 40), (500, 20))
SIDE = 64


def pictures() -> list[Image.Image]:
    """Real photographs, cut to many sizes."""
    flower = Image.fromarray(load_sample_image("flower.jpg"))
    return [flower.resize(size, Image.Resampling.LANCZOS) for size in SIZES]


@pytest.mark.parametrize("resize", RESIZES)
def test_the_graph_makes_the_square_that_serving_makes(resize: Resize, tmp_path: Path) -> None:
    path = tmp_path / "identity.onnx"
    shape = ["batch", SIDE, SIDE, 3]
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, shape) for name in ("images", "same")]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["images"], ["same"])], "identity", ends[:1], ends[1:]
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    prepend(path, SIDE, resize)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for picture in pictures():
        (found,) = session.run(None, {"picture": np.asarray(picture)})
        expected = to_square(picture, SIDE, resize)
        assert found.shape == (1, SIDE, SIDE, 3)
        difference = np.abs(found[0].astype(int) - expected.astype(int))
        between = (
            resize == "crop" and (picture.width - picture.height) % 2
        )  # the crop begins between two pixels
        assert difference.mean() < (2.5 if between else 0.5), picture.size
        if picture.size == (SIDE, SIDE):
            assert not difference.any()


def test_a_file_for_pictures_of_any_size_answers_as_serving(
    digits: PackedDataset, directory: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, picture in enumerate(pictures()):
        picture.save(folder / f"{number}.{'jpg' if number % 2 else 'png'}")
    (folder / "notes.txt").write_text("no picture")
    path = tmp_path / "any.onnx"
    result = export(directory, digits, path, format="onnx", model="digits/7", pictures=folder)
    found = result.on_pictures
    assert found is not None
    assert (found.pictures, found.largest) == (len(SIZES), "640×427")
    assert found.same_class >= 0.8
    assert found.mean_confidence_difference <= found.max_confidence_difference < 0.2
    assert "any size" in json.loads(result.description.read_text())["input"]
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    predictor = Predictor.load(directory, device="cpu", engine="reference")
    data = (folder / "2.png").read_bytes()
    logits, embedding = session.run(None, {"picture": np.asarray(Image.open(folder / "2.png"))})
    (expected,) = predictor.predict([data])
    assert np.abs(softmax(logits)[0] - expected.probabilities).max() < 0.1
    assert embedding.shape == (1, len(expected.embedding))


def test_what_cannot_be_compared_is_refused(digits: PackedDataset, directory: Path, tmp_path: Path) -> None:
    for format, reason in (("onnx", "has no pictures"), ("torchscript", "choose --format onnx")):
        with pytest.raises(UsageError, match=reason):
            export(
                directory, digits, tmp_path / "x", format=format, model="digits/7", pictures=tmp_path / "none"
            )
    assert list(tmp_path.iterdir()) == []
