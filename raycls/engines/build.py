"""What computes a forward pass: the engines, and which of them run where.

    run = load("openvino", checkpoint_directory, "cpu", threads=1)
    logits = run(images)                        # uint8 N×S×S×3 to float32 N×C

| engine | |
|---|---|
| `reference` | PyTorch in float32: what the others are compared with |
| `torch` | PyTorch, in bfloat16 where the device multiplies it natively |
| `openvino` | the network compiled for this processor by OpenVINO, in bfloat16 where it multiplies that natively |
| `cuda-graphs` | `torch` on a GPU, with the launches of its kernels recorded once |

Imports PyTorch for the engines that are made of it, and not for `openvino`: a replica then starts in half the time.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from raycls import machine
from raycls.config import Engine
from raycls.errors import EngineError, UsageError
from raycls.models.card import ModelCard

if TYPE_CHECKING:
    from torch import nn

Device = Literal["cpu", "cuda"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
Run = Callable[[np.ndarray], np.ndarray]


def best_device() -> Device:
    """The GPU where there is one of NVIDIA's, else the CPU. Where its driver is missing, PyTorch need not be asked."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def candidates(device: Device) -> tuple[Engine, ...]:
    """The engines that run on such a device."""
    return "reference", "torch", "openvino" if device == "cpu" else "cuda-graphs"


def to_serve(setting: Engine | Literal["auto"], promoted: Engine) -> Engine:
    """What computes here: the engine that serve_config.yaml names, or for auto the promoted one where it fits."""
    return fitting(promoted, best_device()) if setting == "auto" else setting


def fitting(chosen: Engine, device: Device) -> Engine:
    """The engine that was chosen for a model where it runs on this device, else `torch`."""
    return chosen if chosen in candidates(device) else "torch"


def load(engine: Engine, directory: Path, device: Device, threads: int | None = None) -> Run:
    """The network of a checkpoint directory as a function: uint8 N×S×S×3 to float32 N×C.

    threads of a CPU, for torch's engines those of the whole process; default: one for each core. One thread at a time
    may call it. Raises CheckpointError, EngineError where the engine cannot run such a network, UsageError for an
    engine that does not run on the device.
    """
    if engine not in candidates(device):
        raise UsageError(f"engine {engine} does not run on {device}")
    if engine == "openvino":
        from raycls.engines import openvino

        return openvino.load(directory, threads or machine.cores())
    from raycls.models import checkpoint

    return build(engine, *checkpoint.load(directory), device, threads)


def build(
    engine: Engine, network: nn.Module, card: ModelCard, device: Device, threads: int | None = None
) -> Run:
    """`load` for a network that is in memory, in eval mode. Raises EngineError."""
    if engine == "openvino":
        from raycls.engines import openvino

        return openvino.build(network, card, threads or machine.cores())
    import torch

    from raycls.data.tensors import as_tensor
    from raycls.engines.cuda_graphs import CUDAGraphs
    from raycls.models.forward import compute_dtype, forward

    if threads:
        torch.set_num_threads(threads)
    if engine == "cuda-graphs":
        try:
            return CUDAGraphs(network.to(device, memory_format=torch.channels_last), card)  # type: ignore[call-overload]
        except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
            raise EngineError(f"no CUDA graph of this {card.network}: {first_line(error)}") from error
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    dtype = compute_dtype("fp32" if engine == "reference" else "auto", torch.device(device))
    return lambda images: forward(network, as_tensor(images).to(device), card, dtype).cpu().numpy()


def first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
