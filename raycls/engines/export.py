"""A trained network as one file for programs without raycls: ONNX, torch.export or TorchScript, checked on real images.

    result = export(checkpoint_directory, open_dataset("cifar10"), Path("cats.onnx"), format="onnx", model="cats/3")
    result.max_logit_difference, result.accuracy_difference

The graph takes uint8 N×S×S×3 (RGB, any N) and normalises inside, so that its user needs neither mean nor std; it
answers float32 N×C logits. Beside the file lies FILE.json: classes, image size, where it comes from. Knows checkpoints
and packed datasets, not the registry; what only a format needs is imported when that format is asked for.
"""

from __future__ import annotations

import importlib.util
import json
import logging
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
from raycls.errors import ExportError, UsageError
from raycls.models import checkpoint
from raycls.models.card import WEIGHTS, ModelCard, sha256
from raycls.models.forward import WithNormalization

SUFFIX = {"onnx": ".onnx", "torch-export": ".pt2", "torchscript": ".pt"}
NEEDS = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "torch-export": (), "torchscript": ()}
NEEDS_INT8 = {"onnx": (), "torch-export": ("torchao",)}  # torchscript's quantization is deprecated in torch

# The same float32 sums in another order move a logit by some 1e-5. Ten to a hundred times that is still no rounding but
# another computation; 1e-3 in a logit moves a probability by 0.00025 at the most.
TOLERANCE = 1e-3
IMAGES = 1000  # of the validation split, for the check
CALIBRATION = 512  # training images that show the range of every int8 tensor
BATCH = 250

Runner = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, and how it answered beside the float32 network on the same `images` validation images.

    Accuracies are 0..1, sizes bytes; original_size is that of the checkpoint's weights.
    """

    path: Path
    description: Path
    size: int
    original_size: int
    images: int
    max_logit_difference: float
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
    """Write the checkpoint's network to `path`, load it from there and compare it with the original.

    dataset is the model's own: its training images calibrate int8, its validation images are the check. model is the
    reference that the description names. Raises UsageError for a combination that does not exist or whose packages
    are missing, ExportError where the file cannot be written or, in float32, differs by more than TOLERANCE; no file
    is left then.
    """
    check(format, int8)
    network, card = checkpoint.load(directory)
    if dataset.manifest.fingerprint != card.dataset_fingerprint:
        raise UsageError(
            f"dataset {card.dataset} is no longer the one that {model} was trained on: prepare it again"
        )
    # Without gradients, a loaded file's answers turn into NumPy arrays as they are.
    wrapped = WithNormalization(network, card).eval().requires_grad_(False)
    part = path.with_name(f".{path.name}.part")
    try:
        with warnings.catch_warnings():
            # Deprecations inside the exporters, about which a user can do nothing.
            warnings.simplefilter("ignore")
            with progress.bar(f"writing {path.name}"):
                part.parent.mkdir(parents=True, exist_ok=True)
                calibration = _sample(dataset, "train", CALIBRATION)[0] if int8 else None
                _WRITE[format](wrapped, _example(card), calibration, part)
            result = _compare(wrapped, _READ[format](part), dataset, path, part, directory)
        if not int8 and not result.max_logit_difference <= TOLERANCE:
            raise ExportError(
                f"{path.name} was not kept: its logits differ from the network's by up to "
                f"{result.max_logit_difference:.2g} on {result.images} images, more than the {TOLERANCE:g} that "
                "float32 sums in another order explain"
            )
        part.replace(path)
    except OSError as error:
        raise ExportError(f"cannot write {path}: {error.strerror or error}; choose --output") from None
    finally:
        with suppress(OSError):  # also where there was none
            part.unlink()
    _describe(result, card, directory, format=format, int8=int8, model=model)
    return result


def check(format: str, int8: bool) -> None:
    """Raise UsageError where a format is unknown, has no int8, or its packages are not installed."""
    if format not in SUFFIX:
        raise UsageError(f"unknown format {format!r}; the formats are: {', '.join(SUFFIX)}")
    if int8 and format not in NEEDS_INT8:
        raise UsageError(
            f"there is no int8 for {format}, whose quantization PyTorch has given up: choose "
            f"--format {' or '.join(NEEDS_INT8)}"
        )
    needed = (*NEEDS[format], *(NEEDS_INT8[format] if int8 else ()))
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise UsageError(f"exporting to {format} needs {', '.join(missing)}: pip install 'raycls[export]'")


def _example(card: ModelCard) -> Tensor:
    # Two images: torch.export takes a batch of one for a constant.
    return torch.zeros(2, card.image_size, card.image_size, 3, dtype=torch.uint8)


def _sample(dataset: PackedDataset, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """At most `count` images and labels of the split, the same ones every time, in a random order."""
    labels = dataset.labels(split)
    chosen = np.sort(np.random.default_rng(0).permutation(len(labels))[:count])
    return dataset.images(split)[chosen], labels[chosen]


def _compare(
    network: nn.Module, runner: Runner, dataset: PackedDataset, path: Path, part: Path, directory: Path
) -> Exported:
    images, labels = _sample(dataset, "val", IMAGES)
    # The first image alone: a graph that knows one batch size only shows it here.
    parts = [images[:1], *(images[i : i + BATCH] for i in range(1, len(images), BATCH))]
    ours, theirs = [], []
    with progress.bar(f"checking on {len(images)} images", total=len(images)) as bar, torch.inference_mode():
        for batch in parts:
            ours.append(network(as_tensor(batch)).numpy())
            theirs.append(runner(batch))
            bar.advance(len(batch))
    original, exported = np.concatenate(ours), np.concatenate(theirs)
    return Exported(
        path=path,
        description=path.with_name(f"{path.name}.json"),
        size=part.stat().st_size,
        original_size=(directory / WEIGHTS).stat().st_size,
        images=len(images),
        max_logit_difference=float(np.abs(original - exported).max()),
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
            output_names=["logits"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            dynamo=True,
            external_data=False,  # one file
            verbose=False,
        )
        if calibration is not None:
            _quantize_onnx(plain, calibration, path)
    finally:
        if plain != path:
            plain.unlink(missing_ok=True)


def _quantize_onnx(plain: Path, calibration: np.ndarray, path: Path) -> None:
    """Static quantization with ranges from the calibration images.

    onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Batcher(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(np.array_split(calibration, max(1, len(calibration) // 64)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"images": batch}

    quant_pre_process(plain, plain, skip_symbolic_shape=True)  # its own advice: fold what can be folded first
    quantization.quantize_static(
        plain,
        path,
        Batcher(),
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],  # nearly all the work; the rest keeps its precision
        per_channel=True,  # one scale per filter: filters differ in size
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )


def _read_onnx(path: Path) -> Runner:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda batch: session.run(None, {"images": np.ascontiguousarray(batch)})[0]


def _write_torch_export(
    network: nn.Module, example: Tensor, calibration: np.ndarray | None, path: Path
) -> None:
    dynamic = ({0: torch.export.Dim("batch")},)
    program = torch.export.export(network, (example,), dynamic_shapes=dynamic)
    if calibration is not None:
        quantized = _quantize_torch(program.module(), as_tensor(calibration))
        program = torch.export.export(quantized, (example,), dynamic_shapes=dynamic)
    with path.open("wb") as file:
        torch.export.save(program, file)


def _quantize_torch(module: Any, calibration: Tensor) -> Any:
    """PyTorch 2 export quantization (docs.pytorch.org/ao, pt2e): int8 weights, simulated int8 between the layers.

    The file then needs `import torchao` where it is loaded; it is fast once compiled there by inductor.
    """
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # torchao's own deprecations
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(module, quantizer)
    with torch.inference_mode():
        for batch in calibration.split(64):
            prepared(batch)
    quantized = convert_pt2e(prepared)
    # The float32 weights stay behind as attributes that the graph no longer reads, and would be saved with it.
    read = {str(node.target) for node in quantized.graph.nodes if node.op == "get_attr"}
    for name in [*dict(quantized.named_parameters()), *dict(quantized.named_buffers())]:
        if name not in read:
            owner, _, leaf = name.rpartition(".")
            delattr(quantized.get_submodule(owner), leaf)
    return quantized


def _read_torch_export(path: Path) -> Runner:
    with path.open("rb") as file:
        module = torch.export.load(file).module()
    return lambda batch: module(as_tensor(batch)).numpy()


def _write_torchscript(
    network: nn.Module, example: Tensor, calibration: np.ndarray | None, path: Path
) -> None:
    with torch.inference_mode():
        traced = torch.jit.freeze(torch.jit.trace(network, example))
    torch.jit.save(traced, path)


def _read_torchscript(path: Path) -> Runner:
    module = torch.jit.load(path)
    return lambda batch: module(as_tensor(batch)).numpy()


_WRITE: dict[str, Callable[[nn.Module, Tensor, np.ndarray | None, Path], None]] = {
    "onnx": _write_onnx,
    "torch-export": _write_torch_export,
    "torchscript": _write_torchscript,
}
_READ: dict[str, Callable[[Path], Runner]] = {
    "onnx": _read_onnx,
    "torch-export": _read_torch_export,
    "torchscript": _read_torchscript,
}
