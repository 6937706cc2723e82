"""Export of a trained network to one file: ONNX, torch.export, TorchScript or ExecuTorch, checked on real images.

    result = export(checkpoint_directory, open_dataset("cifar10"), Path("cats.onnx"), format="onnx", model="cats/3")
    result.max_logit_difference, result.accuracy_difference

A program without raycls can load the file. The graph takes uint8 N×S×S×3 (RGB, any N; 1 for ExecuTorch) and returns
logits (float32 N×C) and embeddings (float32 N×D). It normalises the images and divides the logits by the temperature
itself, so its user needs neither mean nor std, and softmax gives the confidence that raycls serves. An ONNX file may
contain the resizing as well, and then takes a picture of any size. FILE.json beside it names the classes, the image
size and the model. This module knows checkpoints and packed datasets, not the registry.
raycls/engines/export_formats.py has the formats.
"""

from __future__ import annotations

import json
import warnings
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raycls import progress
from raycls.data.packed import PackedDataset, sha256_file
from raycls.data.tensors import as_tensor
from raycls.engines.build import Run
from raycls.engines.examples import match
from raycls.engines.export_formats import NEEDS_INT8, READ, WRITE, check
from raycls.engines.export_pictures import OnPictures, chosen_pictures, compare
from raycls.engines.network_costs import median_ms
from raycls.engines.square_onnx import prepend
from raycls.errors import ExportError, UsageError
from raycls.models import checkpoint
from raycls.models.base import Network
from raycls.models.card import WEIGHTS, ModelCard, sha256
from raycls.models.forward import WithNormalization

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
    is the size of the checkpoint's weights. ms: median time of one image here, of the file by its runtime and of the
    original by PyTorch. on_pictures: for a file that takes a picture of any size.
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
    ms: float
    original_ms: float
    on_pictures: OnPictures | None = None

    @property
    def accuracy_difference(self) -> float:
        return self.accuracy - self.original_accuracy

    def as_json(self) -> dict[str, Any]:
        paths = {"path": str(self.path), "description": str(self.description)}
        return {**asdict(self), **paths, "accuracy_difference": self.accuracy_difference}


def export(
    directory: Path,
    dataset: PackedDataset,
    path: Path,
    *,
    format: str,
    model: str,
    int8: bool = False,
    pictures: Path | None = None,
) -> Exported:
    """Write the checkpoint's network to `path`, load the file and compare it with the original network.

    dataset: the dataset that the model was trained on. Its training images calibrate int8, its validation images are
    the check. model: the reference that FILE.json names. pictures: a folder; the file then takes a picture of any
    size, and is compared with serving on these. Raises UsageError if there is no such combination or a package is
    missing. Raises ExportError if the file cannot be written, or if a float32 file differs by more than TOLERANCE.
    After an error there is no file.
    """
    check(format, int8)
    files = _files(pictures, format) if pictures else []
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
                calibration = _sample(card, dataset, "train", CALIBRATION)[0] if int8 else None
                WRITE[format](wrapped, _example(card), calibration, part)
                if pictures:
                    prepend(part, card.image_size, card.resize)
            run = READ[format](part)
            result = _compare(wrapped, card, run, dataset, path, part, directory)
            if pictures:
                result = replace(result, on_pictures=compare(directory, run, files))
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


def _files(folder: Path, format: str) -> list[Path]:
    if format != "onnx":
        raise UsageError("the resizing can be part of an ONNX file alone: choose --format onnx")
    return chosen_pictures(folder)


def _example(card: ModelCard) -> Tensor:
    # Two images, as torch.export would treat a batch size of one as a constant.
    return torch.zeros(2, card.image_size, card.image_size, 3, dtype=torch.uint8)


def _sample(card: ModelCard, dataset: PackedDataset, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return at most `count` random images of the split, at the model's size, and their classes among the model's.

    Every call returns the same ones.
    """
    examples = match(card, dataset, split)
    chosen = examples.drawn(count)
    return examples.pixels(chosen), examples.columns[examples.labels[chosen]]


def _compare(
    network: nn.Module,
    card: ModelCard,
    run: Run,
    dataset: PackedDataset,
    path: Path,
    part: Path,
    directory: Path,
) -> Exported:
    images, labels = _sample(card, dataset, "val", IMAGES)
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
        ms=median_ms(run, images[:1]),
        original_ms=median_ms(lambda batch: network(as_tensor(batch)), images[:1]),
    )


def _describe(
    result: Exported, card: ModelCard, directory: Path, *, format: str, int8: bool, model: str
) -> None:
    side = card.image_size
    square = {
        "crop": "the largest centred square resized",
        "pad": "resized, black beside it",
        "squash": "resized",
    }
    count = 1 if result.on_pictures or format == "executorch" else "N"
    taken = f"images: uint8 {count}×{side}×{side}×3, RGB, {square[card.resize]}; not normalised"
    if result.on_pictures:
        taken = "picture: uint8 H×W×3, RGB, upright, of any size; not normalised"
    description = {
        "model": model,
        "checkpoint_sha256": sha256(directory),
        "file_sha256": sha256_file(result.path),
        "format": format,
        "int8": int8,
        "needs": list(NEEDS_INT8[format] if int8 else ()),
        "input": taken,
        "output": f"logits: float32 {count}×{len(card.classes)}",
        "second_output": f"embedding: float32 {count}×D, the input of the network's last layer",
        "image_size": side,
        "classes": list(card.classes),
        "dataset_fingerprint": card.dataset_fingerprint,
        "max_logit_difference": result.max_logit_difference,
        "accuracy": result.accuracy,
        "original_accuracy": result.original_accuracy,
        "on_pictures": asdict(result.on_pictures) if result.on_pictures else None,
    }
    result.description.write_text(json.dumps(description, indent=2, ensure_ascii=False) + "\n")
