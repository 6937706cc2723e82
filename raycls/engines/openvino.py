"""The engine `openvino`: a network compiled for this processor, which needs PyTorch only when it is first converted.

    run = load(checkpoint_directory, threads=1)      # uint8 N×S×S×3 to float32 N×C

What OpenVINO made of a checkpoint is kept under the home, in cache/openvino: importing PyTorch and converting are two
thirds of what a replica's start would take. The folder may be deleted at any time; what is missing or damaged there is
made again, by a process of its own where this one does without PyTorch: it then stays small.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from raycls import command, home, machine
from raycls.engines.build import Run, first_line
from raycls.errors import EngineError, RayclsError
from raycls.models import card as cards
from raycls.models.card import ModelCard

if TYPE_CHECKING:
    from torch import nn

PIECES = (32, 16, 8, 4, 2, 1)  # images: what a batch is cut into
UNREAD_S = 60 * 24 * 3600.0
GRAPH, CONSTANTS, DIGEST = "model.xml", "model.bin", "sha256"
MAKERS = ("torch", "torchvision", "openvino")  # whose versions decide what a checkpoint becomes
SOURCES = (  # and our own files that do
    "models/card.py",
    "models/checkpoint.py",
    "models/networks.py",
    "models/torchvision_networks.py",
    "models/forward.py",
    "engines/openvino.py",
    "data/tensors.py",
)


def load(directory: Path, threads: int) -> Run:
    """The network of a checkpoint directory, from what is kept of it; converted and kept where that is nothing.

    Raises CheckpointError, EngineError where OpenVINO cannot run the network, or what it made cannot be kept.
    """
    card = cards.load_card(directory)
    with _as_engine_errors(card):
        kept = _kept(directory)
        graph = _read(kept)
        if graph is None:
            # Of replicas that start together, one makes it.
            with home.lock("openvino.lock", "", wait=True):
                if _read(kept) is None:
                    _make(directory, card, kept)
            graph = _read(kept)
        if graph is None:
            raise EngineError(f"what OpenVINO made of {directory} was taken away at once: {kept}")
    return _run(graph, card, threads)


def build(network: nn.Module, card: ModelCard, threads: int) -> Run:
    """The same for a network that is in memory. Raises EngineError."""
    return _run(_convert(network, card), card, threads)


def _make(directory: Path, card: ModelCard, kept: Path) -> None:
    if "torch" in sys.modules:
        from raycls.models import checkpoint

        _keep(_convert(checkpoint.load(directory)[0], card), kept)
        return
    command = [sys.executable, "-m", __name__, str(directory)]
    # Ray may have brought this package along by a path that the environment does not have.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode < 0:
        raise EngineError(f"converting {directory} was ended by signal {-done.returncode}")
    if done.returncode:
        said = (done.stderr.strip() or f"converting ended with {done.returncode}").splitlines()[-1]
        raise EngineError(said.removeprefix("error: "))


def _convert(network: nn.Module, card: ModelCard) -> Any:
    import torch

    from raycls.models.forward import WithNormalization

    side = card.image_size
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    with _as_engine_errors(card), torch.inference_mode(), warnings.catch_warnings():
        # Deprecations inside the converter.
        warnings.simplefilter("ignore")
        whole = WithNormalization(network, card).eval()
        return _without_telemetry().convert_model(whole, example_input=example)


def _run(graph: Any, card: ModelCard, threads: int) -> Run:
    """For one thread at a time: batches of a size share their memory."""
    side = card.image_size
    if threads == 1:
        # For every pass OpenVINO's TBB, by hwloc, would let the calling thread run on all cores, and then on those of
        # before: what bound or freed it meanwhile, as raycls/serving/replica/core_pinning.py does, would be undone. By
        # this hwloc binds nothing. With more threads it may spread them over sockets.
        os.environ.setdefault("HWLOC_THISSYSTEM", "0")
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # it would put the replicas of one machine on the same core
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "bf16" if machine.native_bf16() else "f32",
    }

    # Compiled for a batch of any size, a pass would take 0.4 ms more: a third of a small network's for one image.
    @cache
    def compiled(size: int) -> tuple[Any, np.ndarray, np.ndarray]:
        """Of a batch of that size: the request, and its memory for the images and for the logits."""
        graph.reshape([size, side, side, 3])
        request = core.compile_model(graph, "CPU", settings).create_infer_request()
        return request, request.get_input_tensor(0).data, request.get_output_tensor(0).data

    with _as_engine_errors(card):
        core = _without_telemetry().Core()
        compiled(1)

    def run(images: np.ndarray) -> np.ndarray:
        logits, start = [], 0
        for size in PIECES:
            while len(images) - start >= size:
                request, pixels, answers = compiled(size)
                # Given to `infer`, images would go through 0.05 ms of Python: a tenth of a small network's pass.
                pixels[:] = images[start : start + size]
                request.infer(share_outputs=True)
                logits.append(answers.copy())
                start += size
        return np.concatenate(logits)

    return run


@contextmanager
def _as_engine_errors(card: ModelCard) -> Iterator[None]:
    try:
        yield
    except RayclsError:
        raise
    except Exception as error:  # its converter and its compiler raise many types
        raise EngineError(f"OpenVINO cannot run this {card.network}: {first_line(error)}") from error


def _kept(directory: Path) -> Path:
    """The folder for what is made of a checkpoint: of other weights, code or libraries there is another."""
    digest = hashlib.sha256(cards.sha256(directory).encode())
    for name in SOURCES:
        digest.update((Path(__file__).parents[1] / name).read_bytes())
    digest.update(" ".join(map(version, MAKERS)).encode())
    return home.home() / "cache" / "openvino" / digest.hexdigest()


def _read(kept: Path) -> Any:
    """The graph; None where there is none, or not as it was written."""
    try:
        if _digest(kept) != (kept / DIGEST).read_text():
            return None
    except OSError:
        return None
    with suppress(OSError):  # in a home that is only read, nothing is cleared away either
        os.utime(kept)
    return _without_telemetry().Core().read_model(kept / GRAPH)


def _keep(graph: Any, kept: Path) -> None:
    """As a whole or not at all, in place of those that nobody has read for UNREAD_S."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    for other in kept.parent.iterdir():
        if time.time() - other.stat().st_mtime > UNREAD_S:
            shutil.rmtree(other, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        made = Path(folder, "made")
        made.mkdir()
        _without_telemetry().save_model(graph, made / GRAPH, compress_to_fp16=False)
        (made / DIGEST).write_text(_digest(made))
        try:
            made.rename(kept)
        except OSError:  # there already: made by another meanwhile, or damaged
            if _read(kept) is None:
                shutil.rmtree(kept)
                made.rename(kept)


def _digest(folder: Path) -> str:
    files = (folder / name for name in (GRAPH, CONSTANTS))
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def _without_telemetry() -> ModuleType:
    """OpenVINO. With openvino_telemetry, which its wheel brings, importing it would be told to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def main(arguments: list[str]) -> None:
    """Keep what OpenVINO makes of the checkpoint directory. Raises as `load`."""
    import torch  # noqa: F401 - so that it is made here

    directory = Path(arguments[0])
    _make(directory, cards.load_card(directory), _kept(directory))


if __name__ == "__main__":
    command.run(main)
