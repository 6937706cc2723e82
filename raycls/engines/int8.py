"""Static int8 quantization of an exported graph, with ranges measured on training images.

    quantize_onnx(Path("float.onnx"), calibration, Path("int8.onnx"))      # calibration: uint8 N×S×S×3
    quantized = quantize_torch(program.module(), as_tensor(calibration))

raycls/engines/export.py writes and checks the files. This module knows only graphs and images. It imports the packages
of a format when that format is quantized.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

BATCH = 64  # calibration images in one forward pass


def quantize_onnx(source: Path, calibration: np.ndarray, target: Path) -> None:
    """Write the int8 version of the ONNX file `source` to `target`. `source` is changed too.

    Source: onnxruntime.ai/docs/performance/model-optimizations/quantization.html
    """
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class CalibrationBatches(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self._batches = iter(np.array_split(calibration, max(1, len(calibration) // BATCH)))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self._batches, None)
            return None if batch is None else {"images": batch}

    quant_pre_process(source, source, skip_symbolic_shape=True)  # folds constants, as onnxruntime recommends
    quantization.quantize_static(
        source,
        target,
        CalibrationBatches(),
        op_types_to_quantize=["Conv", "Gemm", "MatMul"],  # nearly all of the work; the rest stays in float32
        per_channel=True,  # one scale for each filter, as filters differ in magnitude
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )


def quantize_torch(module: Any, calibration: Tensor) -> Any:
    """Return a torch.export module with int8 weights and simulated int8 between the layers.

    Source: PyTorch 2 export quantization, docs.pytorch.org/ao (pt2e). A program that loads the file must import torchao
    first. The file is fast only after inductor has compiled it there.
    """
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)  # hides deprecation warnings of torchao
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(module, quantizer)
    with torch.inference_mode():
        for batch in calibration.split(BATCH):
            prepared(batch)
    quantized = convert_pt2e(prepared)
    # The float32 weights remain as attributes that the graph does not read. They would be saved with it.
    read = {str(node.target) for node in quantized.graph.nodes if node.op == "get_attr"}
    for name in [*dict(quantized.named_parameters()), *dict(quantized.named_buffers())]:
        if name not in read:
            owner, _, leaf = name.rpartition(".")
            delattr(quantized.get_submodule(owner), leaf)
    return quantized
