"""Every engine gives the reference's answers, and nobody is told of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from raycls import machine
from raycls.config import Engine
from raycls.data.packed import PackedDataset
from raycls.data.tensors import as_tensor
from raycls.engines import build as engines
from raycls.engines import openvino, openvino_graph
from raycls.engines.build import Device, best_device, candidates, running
from raycls.engines.predictor import Predictor
from raycls.errors import EngineError, UsageError
from raycls.models import checkpoint
from raycls.models.card import WEIGHTS, update_card
from raycls.models.forward import compute_dtype, fast_bf16, forward

CPU: Device = "cpu"
EVERYWHERE = [(engine, CPU) for engine in running(CPU)]
if best_device() != CPU:
    EVERYWHERE += [(engine, best_device()) for engine in candidates(best_device())]


@pytest.mark.parametrize(("engine", "device"), EVERYWHERE)
def test_an_engine_agrees_with_float32(
    quantized: Path, digits: PackedDataset, engine: Engine, device: Device
) -> None:
    images = digits.images("test")
    exact = Predictor.load(quantized, engine="reference", device="cpu").probabilities(images)
    answers = Predictor.load(quantized, engine=engine, device=device).probabilities(images)
    exactly = engine == "reference" and device == CPU
    limit = 1e-6 if exactly else 0.3 if engine == "openvino-int8" else 0.1
    assert np.abs(exact - answers).max() < limit
    assert np.abs(exact - answers).mean() < 0.01
    assert (exact.argmax(1) == answers.argmax(1)).mean() > 0.97


@pytest.mark.parametrize(("engine", "device"), EVERYWHERE)
def test_an_engine_gives_the_embeddings_of_float32_and_obeys_the_temperature(
    quantized: Path, digits: PackedDataset, engine: Engine, device: Device, tmp_path: Path
) -> None:
    shutil.copytree(quantized, tmp_path / "calibrated")
    update_card(tmp_path / "calibrated", metrics={}, temperature=0.25)
    images = digits.images("test")[:70]  # more than the largest batch of a CUDA graph
    network, card = checkpoint.load(quantized)
    logits, embeddings = (each.numpy() for each in forward(network, as_tensor(images), card, torch.float32))
    found, given = Predictor.load(tmp_path / "calibrated", engine=engine, device=device).outputs(images)
    exactly = engine == "reference" and device == CPU
    assert given.dtype == np.float32
    assert given.shape == (70, network.head.in_features)
    limit = 1e-4 if exactly else 0.25 if engine == "openvino-int8" else 0.05
    assert np.abs(given - embeddings).max() < limit * np.abs(embeddings).max()
    assert np.abs(found - 4 * logits).max() < limit * np.abs(4 * logits).max()


@pytest.mark.parametrize(("engine", "device"), EVERYWHERE)
def test_an_image_gets_one_answer_whatever_batch_it_is_in(
    quantized: Path, digits: PackedDataset, engine: Engine, device: Device
) -> None:
    predictor = Predictor.load(quantized, engine=engine, device=device)
    images = digits.images("test")[:40]
    alone = np.concatenate([predictor.probabilities(image[None]) for image in images])
    for size in (3, 8, 40):
        parts = [predictor.probabilities(images[start : start + size]) for start in range(0, 40, size)]
        exactly = 1e-5 if engine == "reference" else 1e-3
        assert np.concatenate(parts) == pytest.approx(alone, abs=exactly if device == CPU else 0.02)


def test_bfloat16_agrees_with_float32_where_the_device_has_none(
    directory: Path, digits: PackedDataset
) -> None:
    network, card = checkpoint.load(directory)
    images = as_tensor(digits.images("test"))
    exact, fast = (
        forward(network, images, card, compute_dtype(precision, torch.device(CPU)))[0].softmax(1)
        for precision in ("fp32", "bf16")
    )
    assert 0 < (exact - fast).abs().max() < 0.1


BOUND = """
import os, sys, threading, time
from pathlib import Path
import numpy as np
from raycls.engines import build as engines
from raycls.models.card import load_card

directory = Path(sys.argv[1])
run = engines.load("openvino", directory, "cpu", threads=1)
side = load_card(directory).image_size
ids, ended = [], threading.Event()

def compute():
    ids.append(threading.get_native_id())
    while not ended.is_set():
        run(np.zeros((32, side, side, 3), np.uint8))

thread = threading.Thread(target=compute)
thread.start()
while not ids:
    time.sleep(0.01)
cores = sorted(os.sched_getaffinity(0))[:2]
found = []
for turn in range(100):
    wanted = {cores[turn % 2]}
    os.sched_setaffinity(ids[0], wanted)
    time.sleep(0.002)
    found.append(os.sched_getaffinity(ids[0]) == wanted)
ended.set()
thread.join()
print(found.count(True))
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_openvino_leaves_its_thread_where_it_is_bound(directory: Path) -> None:
    """In a process of its own, as what OpenVINO first loads decides."""
    done = subprocess.run(
        [sys.executable, "-c", BOUND, str(directory)], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout == "100\n"


def test_an_engine_that_the_device_lacks_is_wrong_use(directory: Path) -> None:
    with pytest.raises(UsageError, match="engine openvino does not run on this cuda"):
        Predictor.load(directory, engine="openvino", device="cuda")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, and the tests above run it")
def test_without_a_gpu_there_is_no_cuda_graph(directory: Path) -> None:
    network, card = checkpoint.load(directory)
    with pytest.raises(EngineError, match="cannot record a CUDA graph of this fastcnn: "):
        engines.build("cuda-graphs", network, card, "cuda")
    assert "cuda-graphs" not in candidates(CPU)
    assert "cuda-graphs" in candidates("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_cuda_graph_keeps_all_that_it_reads(directory: Path, digits: PackedDataset) -> None:
    predictor = Predictor.load(directory, engine="cuda-graphs")
    images = digits.images("test")[:8]
    before = predictor.probabilities(images)
    # They are put where memory was freed.
    others = [torch.full((3,), 9.0, device="cuda") for _ in range(1000)]
    assert np.array_equal(predictor.probabilities(images), before)
    assert len(others) == 1000


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where OpenVINO's graphs are kept, empty."""
    monkeypatch.setenv("RAYCLS_HOME", str(tmp_path / "home"))
    return tmp_path / "home/cache/openvino"


def test_openvino_starts_without_pytorch_from_what_it_kept_and_tells_nobody(
    directory: Path, digits: PackedDataset, kept: Path, tmp_path: Path
) -> None:
    """It has another process make what it keeps. Neither writes to the user's home, nor reports its use."""
    images = digits.images("test")[:8]
    kept.mkdir(parents=True)
    np.save(kept / "images.npy", images)
    program = (
        "import sys\nfrom pathlib import Path\nimport numpy as np\nfrom raycls.engines.predictor import Predictor\n"
        f"predictor = Predictor.load(Path({str(directory)!r}), engine='openvino', device='cpu', threads=1)\n"
        f"np.save({str(kept / 'answers.npy')!r}, predictor.probabilities(np.load({str(kept / 'images.npy')!r})))\n"
        "assert 'openvino' in sys.modules\n"
        "assert 'torch' not in sys.modules\n"
        "assert not [name for name, module in sys.modules.items() if 'openvino_telemetry' in name and module]\n"
    )
    own = tmp_path / "own"
    own.mkdir()
    environment = os.environ | {"HOME": str(own)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert list(own.iterdir()) == []
    predictor = Predictor.load(directory, engine="openvino", device="cpu", threads=1)
    assert np.array_equal(np.load(kept / "answers.npy"), predictor.probabilities(images))


def test_what_openvino_cannot_convert_is_told_by_who_has_it_converted(
    directory: Path, kept: Path, tmp_path: Path
) -> None:
    shutil.copytree(directory, tmp_path / "broken")
    os.truncate(tmp_path / "broken" / WEIGHTS, 1000)
    program = (
        "from pathlib import Path\nfrom raycls.engines.predictor import Predictor\n"
        f"Predictor.load(Path({str(tmp_path / 'broken')!r}), engine='openvino', device='cpu', threads=1)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "EngineError" in done.stderr.splitlines()[-1]
    assert "is damaged" in done.stderr.splitlines()[-1]
    assert not kept.exists()


@pytest.mark.parametrize("damage", ["truncated", "changed", "without its digest", "of older code"])
def test_what_openvino_kept_is_made_again_where_it_is_not_whole(
    directory: Path, digits: PackedDataset, kept: Path, damage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answers() -> np.ndarray:
        predictor = Predictor.load(directory, engine="openvino", device="cpu", threads=1)
        return predictor.probabilities(digits.images("test")[:8])

    before = answers()
    (graph,) = kept.iterdir()
    weights = graph / openvino_graph.CONSTANTS
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "changed":
        weights.write_bytes(bytes(reversed(weights.read_bytes())))
    elif damage == "without its digest":
        (graph / openvino_graph.DIGEST).unlink()
    else:
        monkeypatch.setattr(openvino, "version", lambda name: "0.1")
    assert np.array_equal(answers(), before)
    assert len(list(kept.iterdir())) == (2 if damage == "of older code" else 1)
    monkeypatch.setattr(openvino, "convert", None)  # whole again: it is not asked once more
    assert np.array_equal(answers(), before)


def test_the_processor_as_linux_describes_it_is_the_one_that_pytorch_finds() -> None:
    features = torch.cpu.get_capabilities()
    if features.get("amx_bf16"):
        assert fast_bf16(torch.device(CPU))
    elif not features.get("avx512_bf16"):
        assert not fast_bf16(torch.device(CPU))


@pytest.mark.parametrize(
    ("vendor", "flags", "fast"),
    [
        ("GenuineIntel", "avx512f avx512_bf16 amx_bf16", True),
        ("GenuineIntel", "avx512f avx512_bf16", False),  # AMX is hidden, or absent
        ("AuthenticAMD", "avx512f avx512_bf16", True),
        ("AuthenticAMD", "avx2", False),
    ],
)
def test_bfloat16_is_taken_where_it_is_faster_than_float32(
    vendor: str, flags: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_cpu_facts", lambda: {"vendor_id": vendor, "flags": flags})
    assert machine.fast_bf16() == fast
