"""Exported files, loaded by their own runtimes, beside the network they come from, on real digits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from raycls.config import override
from raycls.data.packed import PackedDataset, sha256_file
from raycls.data.tensors import as_tensor
from raycls.engines import export_formats as module
from raycls.engines.build import Run
from raycls.engines.export import TOLERANCE, export
from raycls.engines.predictor import Predictor, softmax
from raycls.errors import ExportError, UsageError
from raycls.models.card import sha256, update_card
from raycls.training import loop
from raycls.training.presets import preset


def train_a_little(network: str, digits: PackedDataset, directory: Path, *settings: str) -> Path:
    config = override(preset("smoke", digits.info, network), ["epochs=2", *settings])
    loop.fit(config, digits, on_epoch=lambda metrics, snapshot: snapshot.save(directory))
    return directory


@pytest.fixture(scope="module")
def fastcnn(digits: PackedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A calibrated fastcnn that has learnt a little, so that its batch norms and dropout say something."""
    directory = tmp_path_factory.mktemp("fastcnn")
    train_a_little("fastcnn", digits, directory, "dropout=0.2", "epochs=4")
    update_card(directory, metrics={}, temperature=0.5)
    return directory


def _answers(format: str, path: Path, images: np.ndarray) -> list[np.ndarray]:
    """Logits and embeddings, by the runtime that a user of the file would take."""
    if format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path)
        assert list(session.get_inputs()[0].shape)[1:] == [8, 8, 3]
        return session.run(["logits", "embedding"], {"images": images})
    if format == "executorch":
        from executorch.runtime import Runtime

        program = Runtime.get().load_program(str(path))
        method = program.load_method("forward")
        each = [[out.numpy().copy() for out in method.execute([as_tensor(image[None])])] for image in images]
        return [np.concatenate(outputs) for outputs in zip(*each, strict=True)]
    load = torch.export.load if format == "torch-export" else torch.jit.load
    found = load(str(path))
    outputs = (found.module() if format == "torch-export" else found)(as_tensor(images))
    return [output.detach().numpy() for output in outputs]


def assert_answers_as_the_network(directory: Path, format: str, digits: PackedDataset, folder: Path) -> None:
    path = folder / "exports" / "digits.file"
    result = export(directory, digits, path, format=format, model="digits/7")
    assert result.images == digits.info.counts["val"]
    assert result.max_logit_difference <= TOLERANCE
    assert result.max_embedding_difference <= TOLERANCE
    assert result.accuracy_difference == 0
    assert result.size == path.stat().st_size
    assert 0 < result.ms < 1000 > result.original_ms > 0

    predictor = Predictor.load(directory, device="cpu", engine="reference")
    images = np.array(digits.images("test")[:9])
    for count in (1, 9):  # much less than the answers differ among each other
        found = _answers(format, path, images[:count])
        for answers, expected in zip(found, predictor.outputs(images), strict=True):
            assert np.abs(answers - expected[:count]).max() <= min(TOLERANCE, np.ptp(expected) / 1000)
        confidence = softmax(found[0]).max(1)
        assert confidence == pytest.approx(predictor.probabilities(images[:count]).max(1), abs=1e-4)

    described = json.loads(result.description.read_text())
    assert described["classes"] == list(digits.info.classes)
    assert described["image_size"] == 8
    assert described["model"] == "digits/7"
    assert described["file_sha256"] == sha256_file(path)
    assert described["checkpoint_sha256"] == sha256(directory)
    assert sorted(p.name for p in path.parent.iterdir()) == ["digits.file", "digits.file.json"]


def assert_int8_is_nearly_as_good(directory: Path, format: str, digits: PackedDataset, folder: Path) -> None:
    whole = export(directory, digits, folder / "float", format=format, model="digits/7")
    result = export(directory, digits, folder / "int8", format=format, model="digits/7", int8=True)
    assert TOLERANCE < result.max_logit_difference < 2, "int8 changes every answer a little"
    assert abs(result.accuracy_difference) < 0.03
    assert json.loads(result.description.read_text())["int8"]
    if format == "onnx":  # torch.export's graph outweighs the weights of a network as small as this
        assert result.size < whole.size
    assert sorted(p.name for p in folder.iterdir()) == ["float", "float.json", "int8", "int8.json"]


@pytest.mark.parametrize("format", ["onnx", "torch-export", "torchscript", "executorch"])
@pytest.mark.filterwarnings("ignore")  # the runtimes' own deprecations
def test_a_file_answers_as_the_network(
    format: str, digits: PackedDataset, fastcnn: Path, tmp_path: Path
) -> None:
    """The other networks: tests/stories/test_large_exports.py."""
    assert_answers_as_the_network(fastcnn, format, digits, tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_int8_is_smaller_and_nearly_as_good(digits: PackedDataset, fastcnn: Path, tmp_path: Path) -> None:
    assert_int8_is_nearly_as_good(fastcnn, "onnx", digits, tmp_path)


def test_a_file_that_answers_otherwise_is_not_kept(
    digits: PackedDataset, fastcnn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = module.READ["torchscript"]
    for wrong, told in (
        ((0.01, 0), r"its logits .* by up to 0\.01 on 179 images"),
        ((0, 99), "its embeddings"),
    ):

        def read(path: Path, wrong: tuple[float, float] = wrong) -> Run:
            run = right(path)
            return lambda batch: tuple(
                (out + by).astype(np.float32) for out, by in zip(run(batch), wrong, strict=True)
            )

        monkeypatch.setitem(module.READ, "torchscript", read)
        with pytest.raises(ExportError, match=told):
            export(fastcnn, digits, tmp_path / "wrong.pt", format="torchscript", model="digits/7")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_exported_is_told(
    digits: PackedDataset, fastcnn: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tried(**options: object) -> None:
        arguments = {"format": "torchscript", "model": "digits/7", "path": tmp_path / "x", **options}
        export(fastcnn, digits, **arguments)  # type: ignore[arg-type]

    with pytest.raises(UsageError, match="the formats are: onnx, torch-export, torchscript, executorch"):
        tried(format="tflite")
    with pytest.raises(UsageError, match="no int8 for torchscript"):
        tried(int8=True)
    with pytest.raises(ExportError, match=r"cannot write .*; choose another file with --output"):
        tried(path=Path("/dev/null/x"))
    changed = digits.info.model_copy(update={"fingerprint": "0" * 64})
    with pytest.raises(UsageError, match="has changed since digits/7 was trained on it"):
        export(fastcnn, type(digits)(digits.path, changed), tmp_path / "x", format="onnx", model="digits/7")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"needs onnx, onnxscript, onnxruntime: pip install 'raycls\[export\]'"
    ):
        tried(format="onnx")
    assert list(tmp_path.iterdir()) == []
