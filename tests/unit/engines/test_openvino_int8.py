"""The engine `openvino-int8` computes in int8, starts without PyTorch and NNCF, and runs only a whole graph."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from raycls import machine
from raycls.data.packed import PackedDataset
from raycls.engines import openvino_graph, openvino_int8
from raycls.engines.build import running
from raycls.engines.openvino_graph import CONSTANTS, GRAPH, INT8_FOLDER
from raycls.engines.predictor import Predictor
from raycls.errors import EngineError, UsageError

pytestmark = pytest.mark.skipif(not machine.native_int8(), reason="this CPU does not multiply int8")


def test_all_convolutions_and_products_are_computed_in_int8(quantized: Path) -> None:
    graph = openvino_graph.read(quantized / INT8_FOLDER)
    graph.reshape([8, *list(graph.input(0).get_partial_shape())[1:]])
    compiled = openvino_graph.without_telemetry().Core().compile_model(graph, "CPU")
    layers = [
        (found["layerType"].astype(str), found["runtimePrecision"].astype(str))
        for found in (node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops())
    ]
    heavy = [precision for kind, precision in layers if kind in ("Convolution", "FullyConnected", "MatMul")]
    assert len(heavy) >= 4
    assert set(heavy) <= {"u8", "i8"}


def test_it_starts_without_pytorch_nncf_and_onnx(
    quantized: Path, digits: PackedDataset, tmp_path: Path
) -> None:
    images = digits.images("test")[:8]
    np.save(tmp_path / "images.npy", images)
    program = (
        "import sys\nfrom pathlib import Path\nimport numpy as np\nfrom raycls.engines.predictor import Predictor\n"
        f"predictor = Predictor.load(Path({str(quantized)!r}), engine='openvino-int8', device='cpu', threads=1)\n"
        f"images = np.load({str(tmp_path / 'images.npy')!r})\n"
        f"np.save({str(tmp_path / 'answers.npy')!r}, predictor.probabilities(images))\n"
        "assert 'openvino' in sys.modules\n"
        "assert not {'torch', 'nncf', 'onnx', 'onnxruntime'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    predictor = Predictor.load(quantized, engine="openvino-int8", device="cpu", threads=1)
    assert np.array_equal(np.load(tmp_path / "answers.npy"), predictor.probabilities(images))


@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_a_graph_that_is_not_whole_is_refused(quantized: Path, tmp_path: Path, damage: str) -> None:
    copy = Path(shutil.copytree(quantized, tmp_path / "copy"))
    if damage == "missing":
        shutil.rmtree(copy / INT8_FOLDER)
    elif damage == "truncated":
        (copy / INT8_FOLDER / CONSTANTS).write_bytes(b"")
    else:
        (copy / INT8_FOLDER / GRAPH).write_bytes((copy / INT8_FOLDER / GRAPH).read_bytes() + b" ")
    with pytest.raises(EngineError, match="has no whole int8 graph: promote the version again"):
        Predictor.load(copy, engine="openvino-int8", device="cpu")


def test_the_same_images_give_the_same_answers(
    quantized: Path, digits: PackedDataset, tmp_path: Path
) -> None:
    """A graph that is lost and made again answers as the first one."""
    again = Path(shutil.copytree(quantized, tmp_path / "copy", ignore=shutil.ignore_patterns(INT8_FOLDER)))
    openvino_int8.make(again, digits.images("train")[:256], again / INT8_FOLDER)
    first, second = (
        Predictor.load(each, engine="openvino-int8", device="cpu", threads=1).logits(
            digits.images("test")[:16]
        )
        for each in (quantized, again)
    )
    assert np.array_equal(first, second)


def test_a_cpu_without_int8_does_not_have_it(quantized: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "native_int8", lambda: False)
    assert "openvino-int8" not in running("cpu")
    with pytest.raises(UsageError, match="engine openvino-int8 does not run on this cpu"):
        Predictor.load(quantized, engine="openvino-int8", device="cpu")
