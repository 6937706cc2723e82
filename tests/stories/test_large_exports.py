"""Every network exported in every format, each trained once. tests/unit/engines/test_export.py has the small one."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycls.data.packed import PackedDataset
from raycls.data.versions import open_dataset
from tests.unit.engines.test_export import (
    assert_answers_as_the_network,
    assert_int8_is_nearly_as_good,
    train_a_little,
)

FORMATS = ("onnx", "torch-export", "torchscript", "executorch")
# In bf16, the weight gradient of a convolution over a single pixel (what these networks make of 8) is now and then
# NaN, by torch 2.15 on a CPU.
SHORT = ("train_fraction=0.1", "precision=fp32")

# The runtimes warn of their own deprecations.
pytestmark = [pytest.mark.long, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def digits(digits_home: Path) -> PackedDataset:
    return open_dataset("digits")


@pytest.mark.parametrize(
    ("network", "formats"),
    [
        ("mlp", ("onnx",)),
        ("cnn", ("onnx",)),
        ("resnet18", FORMATS),
        ("efficientnet_b0", FORMATS),
        ("mobilenet_v3_small", FORMATS),
    ],
)
def test_files_answer_as_the_network(
    network: str, formats: tuple[str, ...], digits: PackedDataset, tmp_path: Path
) -> None:
    directory = train_a_little(network, digits, tmp_path / "checkpoint", *SHORT)
    for format in formats:
        (tmp_path / format).mkdir()
        assert_answers_as_the_network(directory, format, digits, tmp_path / format)


def test_int8_of_torch_export_is_nearly_as_good(digits: PackedDataset, tmp_path: Path) -> None:
    directory = train_a_little("fastcnn", digits, tmp_path / "checkpoint", "dropout=0.2", "epochs=4")
    (tmp_path / "files").mkdir()
    assert_int8_is_nearly_as_good(directory, "torch-export", digits, tmp_path / "files")
