"""The engine `openvino`: a network compiled by OpenVINO for this CPU.

    run = load(checkpoint_directory, threads=1)
    logits, embeddings = run(images)                 # uint8 N×S×S×3 to float32 N×C and N×D

PyTorch is needed only for the first conversion of a checkpoint. The converted graph is cached in
`$RAYCLS_HOME/cache/openvino`, so a replica starts in a third of the time. The cache may be deleted at any time: a
missing or damaged graph is converted again. If this process has not imported PyTorch, another process converts the
graph, and this process stays small. This module knows checkpoint directories, not the registry.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from raycls import command, home, machine
from raycls.engines import openvino_graph
from raycls.engines.build import Run, first_line
from raycls.errors import EngineError, RayclsError
from raycls.models import card as cards
from raycls.models.card import ModelCard

if TYPE_CHECKING:
    from raycls.models.base import Network

PIECES = (32, 16, 8, 4, 2, 1)  # sizes into which a batch is cut, images
UNREAD_S = 60 * 24 * 3600.0  # a cached graph is deleted after that time without a read
# The graph of a checkpoint depends on these libraries' versions and on these source files.
LIBRARIES = ("torch", "torchvision", "timm", "openvino")
SOURCES = (
    "models/base.py",
    "models/card.py",
    "models/channels.py",
    "models/checkpoint.py",
    "models/ensemble.py",
    "models/networks.py",
    "models/torchvision_networks.py",
    "models/timm_networks.py",
    "models/forward.py",
    "engines/openvino.py",
    "engines/openvino_graph.py",
    "data/tensors.py",
)


def load(directory: Path, threads: int) -> Run:
    """Return the network of a checkpoint directory as a function, from the cache if its graph is there.

    Raises CheckpointError for a damaged checkpoint, EngineError if OpenVINO cannot run the network or its graph cannot
    be written to the cache.
    """
    card = cards.load_card(directory)
    with as_engine_errors(card):
        folder = _cache_folder(directory)
        graph = openvino_graph.read(folder)
        if graph is None:
            # If several replicas start together, one of them converts and the others wait.
            with home.lock("openvino.lock", "", wait=True):
                if openvino_graph.read(folder) is None:
                    _convert_into(folder, directory, card)
            graph = openvino_graph.read(folder)
        if graph is None:
            raise EngineError(
                f"another process deleted {folder}, the OpenVINO graph of {directory}: try again"
            )
    return as_function(graph, card, threads)


def build(network: Network, card: ModelCard, threads: int) -> Run:
    """Return a network that is in memory as a function. Raises EngineError if OpenVINO cannot run it."""
    return as_function(convert(network, card), card, threads)


def _convert_into(folder: Path, directory: Path, card: ModelCard) -> None:
    """Convert the checkpoint's network and write its graph to `folder`, in another process unless PyTorch is here."""
    if "torch" in sys.modules:
        from raycls.models import checkpoint

        _delete_unread(folder.parent)
        openvino_graph.write(convert(checkpoint.load(directory)[0], card), folder)
        return
    openvino_graph.in_other_process(__name__, directory)


def convert(network: Network, card: ModelCard) -> Any:
    """Return the OpenVINO graph of a network, for batches of any size."""
    import torch

    from raycls.models.forward import WithNormalization

    side = card.image_size
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    with as_engine_errors(card), torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside the converter
        whole = WithNormalization(network, card).eval()
        return openvino_graph.without_telemetry().convert_model(whole, example_input=example)


def as_function(graph: Any, card: ModelCard, threads: int) -> Run:
    """Compile the graph and return it as a function.

    Only one thread at a time may call the function: all batches of one size use the same memory.
    """
    side = card.image_size
    if threads == 1:
        # OpenVINO's thread library (TBB with hwloc) changes the calling thread's CPU affinity for every pass, and then
        # restores the old one. That would undo the work of raycls/serving/replica/core_pinning.py. With this variable
        # hwloc changes no affinity. With more threads hwloc stays on, as it may spread them over the CPU sockets.
        os.environ.setdefault("HWLOC_THISSYSTEM", "0")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # pinning would put all replicas of a machine on the same core
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if machine.fast_bf16() else "f32",
    }

    # One compiled model for each batch size: a model for any size adds a fixed cost to each pass, which is large for a
    # small network.
    @cache
    def compiled(size: int) -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
        """Return the request for batches of that size, its input memory, and its memory of logits and embeddings."""
        graph.reshape([size, side, side, 3])
        request = core.compile_model(graph, "CPU", settings).create_infer_request()
        logits, embeddings = (request.get_output_tensor(i).data for i in (0, 1))
        return request, request.get_input_tensor(0).data, logits, embeddings

    with as_engine_errors(card):
        core = openvino_graph.without_telemetry().Core()
        compiled(1)

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        pieces, start = [], 0
        for size in PIECES:
            while len(images) - start >= size:
                request, pixels, logits, embeddings = compiled(size)
                # Writing into the input memory avoids the Python code of `infer(images)`, which costs a tenth of a
                # small network's pass.
                pixels[:] = images[start : start + size]
                request.infer(share_outputs=True)
                pieces.append((logits.copy(), embeddings.copy()))
                start += size
        if len(pieces) == 1:
            return pieces[0]
        return np.concatenate([each[0] for each in pieces]), np.concatenate([each[1] for each in pieces])

    return run


@contextmanager
def as_engine_errors(card: ModelCard) -> Iterator[None]:
    """Turn every error of OpenVINO into EngineError."""
    try:
        yield
    except RayclsError:
        raise
    except Exception as error:  # OpenVINO's converter and compiler raise many types
        raise EngineError(f"OpenVINO cannot run this {card.network}: {first_line(error)}") from error


def _cache_folder(directory: Path) -> Path:
    """Return the folder for a checkpoint's graph. Other weights, source files or libraries have another folder."""
    digest = hashlib.sha256(cards.sha256(directory).encode())
    for name in SOURCES:
        digest.update((Path(__file__).parents[1] / name).read_bytes())
    digest.update(" ".join(map(version, LIBRARIES)).encode())
    return home.home() / "cache" / "openvino" / digest.hexdigest()


def _delete_unread(cache: Path) -> None:
    """Delete the graphs that were not read for UNREAD_S."""
    for folder in cache.glob("*"):
        if time.time() - folder.stat().st_mtime > UNREAD_S:
            shutil.rmtree(folder, ignore_errors=True)


def main(arguments: list[str]) -> None:
    """Convert the network of a checkpoint directory and write its graph to the cache. Raises the errors of `load`."""
    import torch  # noqa: F401 - _convert_into then converts in this process

    directory = Path(arguments[0])
    _convert_into(_cache_folder(directory), directory, cards.load_card(directory))


if __name__ == "__main__":
    command.run(main)
