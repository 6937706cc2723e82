"""What computes a forward pass, and which of several ways is the fastest on this machine.

    run = build("openvino", network, card, torch.device("cpu"))
    logits = run(images)                        # uint8 N×S×S×3 to float32 N×C
    choice = choose(checkpoint_directory, images)     # choice.engine, and what each one took

| engine | |
|---|---|
| `reference` | PyTorch in float32: what the others are compared with |
| `torch` | PyTorch, in bfloat16 where the device multiplies it natively |
| `openvino` | the network compiled for this processor by OpenVINO, in bfloat16 where it multiplies that natively |
| `cuda-graphs` | `torch` on a GPU, with the launches of its kernels recorded once |

Knows checkpoint directories and images; who remembers the choice is the registry.
"""

from __future__ import annotations

import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from raycls import progress
from raycls.config import Engine
from raycls.data.transforms import as_tensor, normalize, rescale, scale_and_shift
from raycls.errors import CheckpointError, EngineError
from raycls.models import checkpoint
from raycls.models.checkpoint import ModelCard

Precision = Literal["auto", "bf16", "fp32"]
ENGINES: tuple[Engine, ...] = get_args(Engine)
Run = Callable[[np.ndarray], Tensor]

THREADS = 1  # with which engines are timed: `threads` of serve_config.yaml
ONE, MANY = 1, 32  # images: a lone request's batch, and one under load
ROUNDS, WARM_UP = 20, 3  # timed passes of each engine, in turns
MOST_SECONDS = 3.0  # of all of them: large networks get fewer
PAUSE_S = 0.004  # before each: in a row of them without end, each would take half as long as in a replica
PIECES = (32, 16, 8, 4, 2, 1)  # images: what a batch is cut into for OpenVINO
# Images: batches that have a CUDA graph; one in between plays the next larger.
RECORDED = (1, 2, 4, 8, 16, 32, 64)
# A fit engine's agreement with the reference; bfloat16 in a sound one is at 0.99 and 0.003.
SAME_CLASS, MEAN_DIFFERENCE = 0.97, 0.02


def best_device() -> torch.device:
    """The GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def native_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 matrices in hardware; elsewhere bf16 is slower than float32."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    features = torch.cpu.get_capabilities()
    return bool(features.get("avx512_bf16") or features.get("amx_bf16"))


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The dtype of convolutions and matrix products: what `precision` asks for, or what suits the device."""
    if precision == "auto":
        return torch.bfloat16 if native_bf16(device) else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


@torch.inference_mode()
def forward(network: nn.Module, images: Tensor, card: ModelCard, dtype: torch.dtype) -> Tensor:
    """Logits (float32, N×C) of uint8 N×S×S×3 images, on the network's device."""
    inputs = normalize(images, card.mean, card.std)
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        return network(inputs.to(dtype)).float()


class WithNormalization(nn.Module):
    """A network as one graph: uint8 N×S×S×3 in, float32 logits N×C out."""

    _scale: Tensor
    _shift: Tensor

    def __init__(self, network: nn.Module, card: ModelCard):
        super().__init__()
        self.network = network
        for name, values in zip(("_scale", "_shift"), scale_and_shift(card.mean, card.std), strict=True):
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(rescale(images, self._scale, self._shift))


def candidates(device: torch.device) -> tuple[Engine, ...]:
    """The engines that run on such a device."""
    of_its_own: dict[str, tuple[Engine, ...]] = {"cpu": ("openvino",), "cuda": ("cuda-graphs",)}
    return "reference", "torch", *of_its_own.get(device.type, ())


def to_serve(setting: Engine | Literal["auto"], promoted: Engine) -> Engine:
    """What computes here: the engine that serve_config.yaml names, or for auto the promoted one where it fits."""
    return fitting(promoted, best_device()) if setting == "auto" else setting


def fitting(chosen: Engine, device: torch.device) -> Engine:
    """The engine that was chosen for a model where it runs on this device, else `torch`."""
    return chosen if chosen in candidates(device) else "torch"


def build(engine: Engine, network: nn.Module, card: ModelCard, device: torch.device) -> Run:
    """The network, which is in eval mode on the device, as a function: uint8 N×S×S×3 to float32 N×C on the CPU.

    On a CPU it uses as many threads as torch has now. One thread at a time may call it. Raises EngineError where the
    engine cannot run such a network.
    """
    if engine == "openvino":
        return _openvino(network, card)
    if engine == "cuda-graphs":
        try:
            return _CUDAGraphs(network, card, device)
        except (RuntimeError, AssertionError) as error:  # the latter where torch was built without CUDA
            raise EngineError(f"no CUDA graph of this {card.network}: {_first_line(error)}") from error
    dtype = compute_dtype("fp32" if engine == "reference" else "auto", device)
    return lambda images: forward(network, as_tensor(images).to(device), card, dtype).cpu()


def _openvino(network: nn.Module, card: ModelCard) -> Run:
    side = card.image_size
    example = torch.zeros(2, side, side, 3, dtype=torch.uint8)
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,  # it would put the replicas of one machine on the same core
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "INFERENCE_PRECISION_HINT": "bf16" if native_bf16(torch.device("cpu")) else "f32",
    }
    try:
        ov = _without_telemetry()
        with torch.inference_mode(), warnings.catch_warnings():
            # Deprecations inside the converter.
            warnings.simplefilter("ignore")
            whole = WithNormalization(network, card).eval()
            graph = ov.convert_model(whole, example_input=example)
        core = ov.Core()

        # Compiled for a batch of any size, a pass would take 0.4 ms more: a third of a small network's for one image.
        @cache
        def compiled(size: int) -> Any:
            graph.reshape([size, side, side, 3])
            return core.compile_model(graph, "CPU", settings).create_infer_request()

        compiled(1)
    except Exception as error:  # its converter and its compiler raise many types
        raise EngineError(f"OpenVINO cannot run this {card.network}: {_first_line(error)}") from error

    def run(images: np.ndarray) -> Tensor:
        logits, start = [], 0
        for size in PIECES:
            while len(images) - start >= size:
                logits.append(compiled(size).infer([images[start : start + size]], share_inputs=True)[0])
                start += size
        return torch.from_numpy(np.concatenate(logits))

    return run


class _CUDAGraphs:
    """A batch crosses to the GPU in one copy from pinned memory, and one launch does all of its kernels.

    After PyTorch's notes on CUDA graphs, https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
    """

    def __init__(self, network: nn.Module, card: ModelCard, device: torch.device):
        side, dtype = card.image_size, compute_dtype("auto", device)
        # A recording knows addresses alone: what it reads must stay, the constants of the normalisation too.
        self._network = WithNormalization(network, card).to(device).eval()
        self._waiting = torch.zeros(RECORDED[-1], side, side, 3, dtype=torch.uint8, pin_memory=True)
        self._pixels = self._waiting.to(device)
        self._recorded: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        with torch.inference_mode(), torch.cuda.device(device):
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):  # libraries choose their kernels in the first passes
                for size in RECORDED:
                    for _ in range(WARM_UP):
                        self._forward(size, dtype)
            torch.cuda.current_stream().wait_stream(beside)
            pool = torch.cuda.graph_pool_handle()
            for size in reversed(RECORDED):  # in one pool the smaller ones find the memory of the largest
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool):
                    logits = self._forward(size, dtype)
                self._recorded[size] = graph, logits

    def _forward(self, size: int, dtype: torch.dtype) -> Tensor:
        # Autocast's cache must be off while a graph is recorded.
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32, cache_enabled=False):
            return self._network(self._pixels[:size]).float()

    def __call__(self, images: np.ndarray) -> Tensor:
        parts = []
        for part in as_tensor(images).split(RECORDED[-1]):
            count = len(part)
            graph, logits = self._recorded[next(size for size in RECORDED if size >= count)]
            self._waiting[:count].copy_(part)
            self._pixels[:count].copy_(self._waiting[:count], non_blocking=True)
            graph.replay()
            parts.append(logits[:count].cpu())  # waits, so that the pinned memory may be filled again
        return torch.cat(parts)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _without_telemetry() -> ModuleType:
    """OpenVINO. With openvino_telemetry, which its wheel brings, importing it would be told to its makers."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


@dataclass(frozen=True, kw_only=True)
class Timing:
    """How long one engine takes, median milliseconds, and how far its answers are from the reference's."""

    engine: Engine
    one_ms: float  # a batch of ONE image
    many_ms: float  # a batch of MANY images
    same_class: float  # share of the images that get the reference's class
    mean_difference: float  # of the largest probability, absolute

    @property
    def agrees(self) -> bool:
        return self.same_class >= SAME_CLASS and self.mean_difference <= MEAN_DIFFERENCE

    @property
    def cost(self) -> float:
        """Both batches count alike: their geometric mean, squared."""
        return self.one_ms * self.many_ms


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The fastest engine of those that agree with the reference, which is one of them."""

    engine: Engine
    timings: tuple[Timing, ...]

    def as_json(self) -> list[dict[str, Any]]:
        return [asdict(timing) for timing in self.timings]

    def __str__(self) -> str:
        each = ", ".join(f"{t.engine} {t.one_ms:.2f} and {t.many_ms:.1f} ms" for t in self.timings)
        return f"{self.engine} is the fastest engine here: for {ONE} image and {MANY}, {each}"


def choose(directory: Path, images: np.ndarray, device: torch.device | None = None) -> Choice:
    """Time every engine on this machine, in turns, with THREADS; `images` (uint8 N×S×S×3) are real ones.

    An engine that cannot run the network, or does not agree with the reference, is said and left out. Raises
    CheckpointError where the answers are not finite.
    """
    network, card = checkpoint.load(directory)
    device = device or best_device()
    network = network.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        runs = able(network, card, device)
        answers = {engine: _probabilities(run, images) for engine, run in runs.items()}
        one, many = (
            {engine: statistics.median(times) for engine, times in _time(runs, images, count).items()}
            for count in (ONE, MANY)
        )
    finally:
        torch.set_num_threads(before)
    exact = answers["reference"]
    if not exact.isfinite().all():
        raise CheckpointError(f"the answers of {directory} are not finite")
    timings = tuple(
        Timing(
            engine=engine,
            one_ms=one[engine],
            many_ms=many[engine],
            same_class=float((answer.argmax(1) == exact.argmax(1)).float().mean()),
            mean_difference=float((answer.amax(1) - exact.amax(1)).abs().mean()),
        )
        for engine, answer in answers.items()
    )
    for timing in timings:
        if not timing.agrees:
            progress.say(
                f"engine {timing.engine} is not used: {timing.same_class:.1%} of {len(images)} images get the class "
                f"of the reference, whose confidence is {timing.mean_difference:.3f} away on average"
            )
    fit = [timing for timing in timings if timing.agrees]
    return Choice(engine=min(fit, key=lambda timing: timing.cost).engine, timings=timings)


def able(network: nn.Module, card: ModelCard, device: torch.device) -> dict[Engine, Run]:
    """The engines that run the network on the device; of the others it is said why not."""
    runs: dict[Engine, Run] = {}
    for engine in candidates(device):
        try:
            runs[engine] = build(engine, network, card, device)
        except EngineError as error:
            progress.say(f"engine {engine} is not used: {error}")
    return runs


def _probabilities(run: Run, images: np.ndarray) -> Tensor:
    parts = [run(images[start : start + MANY]) for start in range(0, len(images), MANY)]
    return torch.cat(parts).softmax(1)


def _time(runs: dict[Engine, Run], images: np.ndarray, count: int) -> dict[Engine, list[float]]:
    """Milliseconds of each engine's passes over `count` images."""
    batch = np.resize(images, (count, *images.shape[1:]))
    times: dict[Engine, list[float]] = {engine: [] for engine in runs}
    deadline = time.perf_counter() + MOST_SECONDS
    for turn in range(WARM_UP + ROUNDS):
        if turn > WARM_UP and time.perf_counter() > deadline:
            break
        for engine, run in runs.items():
            time.sleep(PAUSE_S)
            started = time.perf_counter()
            run(batch)
            if turn >= WARM_UP:
                times[engine].append(1000 * (time.perf_counter() - started))
    return times
