"""The formats of an export: how a network is written in each, and how its own runtime reads the file again.

    WRITE["onnx"](module, example, None, Path("cats.onnx"))        # example: uint8 2×S×S×3
    logits, embeddings = READ["onnx"](Path("cats.onnx"))(images)   # uint8 N×S×S×3

raycls/engines/export.py checks what is written. This module imports the packages of a format when it is used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from raycls.data.tensors import as_tensor
from raycls.engines.build import Run
from raycls.engines.int8 import quantize_onnx, quantize_torch
from raycls.engines.square_onnx import PICTURE
from raycls.errors import UsageError

SUFFIX = {"onnx": ".onnx", "torch-export": ".pt2", "torchscript": ".pt", "executorch": ".pte"}
NEEDS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torch-export": (),
    "torchscript": (),
    "executorch": ("executorch",),
}
NEEDS_INT8 = {"onnx": (), "torch-export": ("torchao",)}
EXTRA = {"executorch": "executorch"}  # of raycls, that brings what a format needs; "export" for the others


def check(format: str, int8: bool) -> None:
    """Raise UsageError if the format is unknown, has no int8, or needs a package that is not installed."""
    if format not in SUFFIX:
        raise UsageError(f"unknown format {format!r}; the formats are: {', '.join(SUFFIX)}")
    if int8 and format not in NEEDS_INT8:
        raise UsageError(f"there is no int8 for {format}: choose --format {' or '.join(NEEDS_INT8)}")
    needed = (*NEEDS[format], *(NEEDS_INT8[format] if int8 else ()))
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise UsageError(
            f"exporting to {format} needs {', '.join(missing)}: pip install 'raycls[{EXTRA.get(format, 'export')}]'"
        )


def one_by_one(run: Callable[[np.ndarray], list[np.ndarray]]) -> Run:
    """Return a function of batches, for a file that takes one image: `run` gives logits 1×C and embeddings 1×D."""

    def each(batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, embeddings = zip(*(run(np.ascontiguousarray(image)) for image in batch), strict=True)
        return np.concatenate(logits), np.concatenate(embeddings)

    return each


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
    if session.get_inputs()[0].name == PICTURE:  # raycls/engines/square_onnx.py
        return one_by_one(lambda picture: session.run(None, {PICTURE: picture}))
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


def _write_executorch(
    network: nn.Module, example: Tensor, calibration: np.ndarray | None, path: Path
) -> None:
    """Write a .pte file for one image, whose layers XNNPACK computes.

    Source: docs.pytorch.org/executorch, "XNNPACK Backend". It is the backend of the processors of all phones.
    """
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    program = torch.export.export(network, (example[:1],))
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()])
    path.write_bytes(lowered.to_executorch().buffer)


def _read_executorch(path: Path) -> Run:
    from executorch.runtime import Runtime

    program = Runtime.get().load_program(str(path))
    method = program.load_method("forward")

    def run(image: np.ndarray) -> list[np.ndarray]:
        assert program  # the method computes in its memory
        return [each.numpy().copy() for each in method.execute([as_tensor(image[None])])]

    return one_by_one(run)


WRITE: dict[str, Callable[[nn.Module, Tensor, np.ndarray | None, Path], None]] = {
    "onnx": _write_onnx,
    "torch-export": _write_torch_export,
    "torchscript": _write_torchscript,
    "executorch": _write_executorch,
}
READ: dict[str, Callable[[Path], Run]] = {
    "onnx": _read_onnx,
    "torch-export": _read_torch_export,
    "torchscript": _read_torchscript,
    "executorch": _read_executorch,
}
