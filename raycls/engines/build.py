"""The engines that compute a forward pass, and the devices on which each one runs.

    run = load("openvino", checkpoint_directory, "cpu", threads=1)
    logits, embeddings = run(images)            # uint8 N×S×S×3 to float32 N×C and N×D

| engine | computes with |
|---|---|
| `reference` | PyTorch in float32; the other engines are compared with it |
| `torch` | PyTorch, in bfloat16 where the device is faster in it |
| `openvino` | the network compiled by OpenVINO for this CPU, in bfloat16 where the CPU is faster in it |
| `openvino-int8` | the same in int8, quantized after the training, on CPUs that multiply int8 in hardware |
| `cuda-graphs` | `torch` on a GPU; its kernels are recorded once as a CUDA graph |

One pass gives both: the embedding is the input of the network's head. OpenVINO runs without PyTorch, so a replica
starts in half the time. `openvino-int8` runs the graph that a promotion made (raycls/engines/openvino_int8.py).
Logits are those of the network: raycls/engines/predictor.py divides them by the card's temperature. This module knows
neither requests nor registries; raycls/engines/choice.py decides which engine is the fastest.
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
    from raycls.models.base import Network

Device = Literal["cpu", "cuda"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
Run = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]  # images to logits and embeddings


def best_device() -> Device:
    """Return "cuda" if there is an NVIDIA GPU, else "cpu"."""
    # Without the NVIDIA driver there is no GPU. The test of the driver saves the import of PyTorch.
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def candidates(device: Device) -> tuple[Engine, ...]:
    """Return the engines that run any network on a kind of device."""
    return "reference", "torch", "openvino" if device == "cpu" else "cuda-graphs"


def running(device: Device) -> tuple[Engine, ...]:
    """Return all engines of a kind of device on this machine, also the one that needs a quantized graph."""
    quantized = device == "cpu" and machine.native_int8()
    return (*candidates(device), "openvino-int8") if quantized else candidates(device)


def load(engine: Engine, directory: Path, device: Device, threads: int | None = None) -> Run:
    """Return the network of a checkpoint directory as a function: uint8 N×S×S×3 to float32 N×C and N×D.

    Only one thread at a time may call the function. threads: CPU threads of a forward pass, by default one for each
    core; PyTorch's engines set it for the whole process. Raises CheckpointError for a damaged checkpoint, EngineError
    if the engine cannot run the network, UsageError if the engine does not run on the device.
    """
    if engine not in running(device):
        raise UsageError(
            f"engine {engine} does not run on this {device}: choose one of {', '.join(running(device))}"
        )
    if engine == "openvino-int8":
        from raycls.engines import openvino_int8

        return openvino_int8.load(directory, threads or machine.cores())
    if engine == "openvino":
        from raycls.engines import openvino

        return openvino.load(directory, threads or machine.cores())
    from raycls.models import checkpoint

    return build(engine, *checkpoint.load(directory), device, threads)


def build(
    engine: Engine, network: Network, card: ModelCard, device: Device, threads: int | None = None
) -> Run:
    """Return what `load` returns, for a network that is in memory and in eval mode, by one of `candidates`.

    Raises EngineError.
    """
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
        except (RuntimeError, AssertionError) as error:  # AssertionError if PyTorch was built without CUDA
            raise EngineError(
                f"cannot record a CUDA graph of this {card.network}: {first_line(error)}"
            ) from error
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    dtype = compute_dtype("fp32" if engine == "reference" else "auto", torch.device(device))

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, embeddings = forward(network, as_tensor(images).to(device), card, dtype)
        return logits.cpu().numpy(), embeddings.cpu().numpy()

    return run


def first_line(error: Exception) -> str:
    """Return the first line of an error's message, or the name of its type if the message is empty."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
