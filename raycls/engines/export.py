"""Export of a trained network to one file: ONNX, torch.export or TorchScript, checked on real images.

    result = export(checkpoint_directory, open_dataset("cifar10"), Path("cats.onnx"), format="onnx", model="cats/3")
    result.max_logit_difference, result.accuracy_difference

A program without raycls can load the file. The graph takes uint8 N×S×S×3 (RGB, any N) and returns logits (float32 N×C)
and embeddings (float32 N×D). It normalises the images and divides the logits by the temperature itself, so its user
needs neither mean nor std, and softmax gives the confidence that raycls serves. FILE.json beside it names the classes,
the image size and the model. This module knows checkpoints and packed datasets, not the registry. It imports the
packages of a format when that format is exported.
"""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raycls import progress
from raycls.data.packed import PackedDataset, sha256_file
from raycls.data.tensors import as_tensor
from raycls.engines.build import Run
from raycls.engines.int8 import quantize_onnx, quantize_torch
from raycls.errors import ExportError, UsageError
from raycls.models import checkpoint
from raycls.models.base import Network
from raycls.models.card import WEIGHTS, ModelCard, sha256
from raycls.models.forward import WithNormalization

SUFFIX = {"onnx": ".onnx", "torch-export": ".pt2", "torchscript": ".pt"}
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch-export": (), "torchscript": ()}
NEEDS_INT8 = {"onnx": (), "torch-export": ("torchao",)}  # PyTorch has deprecated quantization for torchscript

# The largest difference of a logit that is accepted, and of an embedding as a share of the largest value. Float32 sums
# in another order change a logit by about 1e-5; a much larger difference means another computation. A difference of
# 1e-3 changes a probability by at most 0.00025.
TOLERANCE = 1e-3
IMAGES = 1000  # validation images for the check
CALIBRATION = 512  # training images that give the range of every int8 tensor
BATCH = 250  # images in one forward pass of the check


class _WithTemperature(nn.Module):
    """A network as a file holds it: uint8 N×S×S×3 to calibrated logits N×C and embeddings N×D."""

    def __init__(self, network: Network, card: ModelCard):
        super().__init__()
        self.network, self.temperature = WithNormalization(network, card), card.temperature

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits, embeddings = self.network(images)
        return logits / self.temperature, embeddings


@dataclass(frozen=True, kw_only=True)
class Exported:
    """An exported file, compared with the float32 network on `images` validation images.

    max_embedding_difference is a share of the largest value. Accuracies are in 0..1. Sizes are in bytes; original_size
    is the size of the checkpoint's weights.
    """

    path: Path
    description: Path
    size: int
    original_size: int
    images: int
    max_logit_difference: float
    max_embedding_difference: float
    accuracy: float
    original_accuracy: float

    @property
    def accuracy_difference(self) -> float:
        return self.accuracy - self.original_accuracy

    def as_json(self) -> dict[str, Any]:
        paths = {"path": str(self.path), "description": str(self.description)}
        return {**asdict(self), **paths, "accuracy_difference": self.accuracy_difference}


def export(
    directory: Path, dataset: PackedDataset, path: Path, *, format: str, model: str, int8: bool = False
) -> Exported:
    """Write the checkpoint's network to `path`, load the file and compare it with the original network.

    dataset: the dataset that the model was trained on. Its training images calibrate int8, its validation images are
    the check. model: the reference that FILE.json names. Raises UsageError if there is no such combination or a package
    is missing. Raises ExportError if the file cannot be written, or if a float32 file differs by more than TOLERANCE.
    After an error there is no file.
    """
    check(format, int8)
    network, card = checkpoint.load(directory)
    if dataset.info.fingerprint != card.dataset_fingerprint:
        raise UsageError(
            f"dataset {card.dataset} has changed since {model} was trained on it: prepare it again from the former "
            "images, or train the model again"
        )
    # Without gradients, the output of a loaded file converts to NumPy directly.
    wrapped = _WithTemperature(network, card).eval().requires_grad_(False)
    part = path.with_name(f".{path.name}.part")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside the exporters, which a user cannot fix
            with progress.bar(f"writing {path.name}"):
                part.parent.mkdir(parents=True, exist_ok=True)
                calibration = _sample(dataset, "train", CALIBRATION)[0] if int8 else None
                _WRITE[format](wrapped, _example(card), calibration, part)
            result = _compare(wrapped, _READ[format](part), dataset, path, part, directory)
        for what, difference in (
            ("logits", result.max_logit_difference),
            ("embeddings", result.max_embedding_difference),
        ):
            if not int8 and not difference <= TOLERANCE:
                raise ExportError(
                    f"{path.name} was deleted: its {what} differ from the network's by up to {difference:.2g} on "
                    f"{result.images} images; rounding explains at most {TOLERANCE:g}. Choose another --format"
                )
        part.replace(path)
    except OSError as error:
        raise ExportError(
            f"cannot write {path}: {error.strerror or error}; choose another file with --output"
        ) from None
    finally:
        with suppress(OSError):  # the file may not exist
            part.unlink()
    _describe(result, card, directory, format=format, int8=int8, model=model)
    return result


def check(format: str, int8: bool) -> None:
    """Raise UsageError if the format is unknown, has no int8, or needs a package that is not installed."""
    if format not in SUFFIX:
        raise UsageError(f"unknown format {format!r}; the formats are: {', '.join(SUFFIX)}")
    if int8 and format not in NEEDS_INT8:
        raise UsageError(
            f"there is no int8 for {format}, as PyTorch has deprecated its quantization: choose "
            f"--format {' or '.join(NEEDS_INT8)}"
        )
    needed = (*NEEDS[format], *(NEEDS_INT8[format] if int8 else ()))
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise UsageError(f"exporting to {format} needs {', '.join(missing)}: pip install 'raycls[export]'")


def _example(card: ModelCard) -> Tensor:
    # Two images, as torch.export would treat a batch size of one as a constant.
    return torch.zeros(2, card.image_size, card.image_size, 3, dtype=torch.uint8)


def _sample(dataset: PackedDataset, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of at most `count` random images of the split. Every call returns the same ones."""
    labels = dataset.labels(split)
    chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[:count])
    return dataset.images(split)[chosen], labels[chosen]


def _compare(
    network: nn.Module, run: Run, dataset: PackedDataset, path: Path, part: Path, directory: Path
) -> Exported:
    images, labels = _sample(dataset, "val", IMAGES)
    # The first batch is one image: a graph that accepts only one batch size fails here.
    batches = [images[:1], *(images[i : i + BATCH] for i in range(1, len(images), BATCH))]
    originals, answers = [], []
    with progress.bar(f"checking on {len(images)} images", total=len(images)) as bar, torch.inference_mode():
        for batch in batches:
            originals.append([output.numpy() for output in network(as_tensor(batch))])
            answers.append(run(batch))
            bar.advance(len(batch))
    original, embeddings = (np.concatenate(parts) for parts in zip(*originals, strict=True))
    exported, exported_embeddings = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    return Exported(
        path=path,
        description=path.with_name(f"{path.name}.json"),
        size=part.stat().st_size,
        original_size=(directory / WEIGHTS).stat().st_size,
        images=len(images),
        max_logit_difference=float(np.abs(original - exported).max()),
        max_embedding_difference=float(
            np.abs(embeddings - exported_embeddings).max() / max(1.0, np.abs(embeddings).max())
        ),
        accuracy=float((exported.argmax(1) == labels).mean()),
        original_accuracy=float((original.argmax(1) == labels).mean()),
    )


def _describe(
    result: Exported, card: ModelCard, directory: Path, *, format: str, int8: bool, model: str
) -> None:
    side = card.image_size
    description = {
        "model": model,
        "checkpoint_sha256": sha256(directory),
        "file_sha256": sha256_file(result.path),
        "format": format,
        "int8": int8,
        "needs": list(NEEDS_INT8[format] if int8 else ()),
        "input": f"images: uint8 N×{side}×{side}×3, RGB, the largest centred square resized; not normalised",
        "output": f"logits: float32 N×{len(card.classes)}",
        "second_output": "embedding: float32 N×D, the input of the network's last layer",
        "image_size": side,
        "classes": list(card.classes),
        "dataset_fingerprint": card.dataset_fingerprint,
        "max_logit_difference": result.max_logit_difference,
        "accuracy": result.accuracy,
        "original_accuracy": result.original_accuracy,
    }
    result.description.write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n")


def _write_onnx(network: nn.Module, example: Tensor, calibration: np.ndarray | None, path: Path) -> None:
    plain = path.with_suffix(".float.onnx") if calibration is not None else path
    try:
        torch.onnx.export(
            network,
            (example,),
            plain,
            input_names=["images"],
            output_names=["logits", "embedding"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            dynamo=True,
            external_data=False,  # one file
            verbose=False,
        )
        if calibration is not None:
            quantize_onnx(plain, calibration, path)
    finally:
        if plain != path:
            plain.unlink(missing_ok=True)


def _read_onnx(path: Path) -> Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda batch: tuple(session.run(None, {"images": np.ascontiguousarray(batch)}))


def _write_torch_export(
    network: nn.Module, example: Tensor, calibration: np.ndarray | None, path: Path
) -> None:
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (example,), dynamic_shapes=dynamic)
    if calibration is not None:
        quantized = quantize_torch(program.module(), as_tensor(calibration))
        program = torch.export.export(quantized, (example,), dynamic_shapes=dynamic)
    with path.open("wb") as file:
        torch.export.save(program, file)


def _read_torch_export(path: Path) -> Run:
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return lambda batch: tuple(output.numpy() for output in module(as_tensor(batch)))


def _write_torchscript(
    network: nn.Module, example: Tensor, calibration: np.ndarray | None, path: Path
) -> None:
    with torch.inference_mode():
        traced = torch.jit.freeze(torch.jit.trace(network, example))
    torch.jit.save(traced, path)


def _read_torchscript(path: Path) -> Run:
    module = torch.jit.load(path)
    return lambda batch: tuple(output.numpy() for output in module(as_tensor(batch)))


_WRITE: dict[str, Callable[[nn.Module, Tensor, np.ndarray | None, Path], None]] = {
    "onnx": _write_onnx,
    "torch-export": _write_torch_export,
    "torchscript": _write_torchscript,
}
_READ: dict[str, Callable[[Path], Run]] = {
    "onnx": _read_onnx,
    "torch-export": _read_torch_export,
    "torchscript": _read_torchscript,
}
