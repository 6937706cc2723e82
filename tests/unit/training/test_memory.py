"""How much memory a step takes, counted without computing it, and the batch that fits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raycls.data.packed import PackedDataset
from raycls.models.networks import build
from raycls.training.memory import COPIES, STEP_SHARE, free_memory, gpu_memory, kept_bytes, largest_batch
from raycls.training.presets import preset


def test_what_a_layer_keeps_is_counted_and_its_weights_are_not() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
    # The convolution keeps its input, and the activation its output.
    assert kept_bytes(network, 16) == 4 * 16 * 16 * (3 + 8)


@pytest.mark.parametrize("name", ["fastcnn", "cnn", "resnet18", "timm/test_vit.r160_in1k"])
def test_the_count_is_what_a_real_pass_keeps(name: str) -> None:
    network, kept = build(name, num_classes=3, image_size=64).train(), 0

    def count(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += 0 if tensor.is_leaf and tensor.requires_grad else tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        network(torch.zeros(2, 3, 64, 64))
    assert kept_bytes(network, 64) == pytest.approx(kept / 2, rel=0.05)


def test_the_batch_grows_with_the_memory_and_falls_with_the_pixels() -> None:
    def most(side: int, gigabytes: float) -> int:
        return largest_batch(build("resnet18", num_classes=3, image_size=side), side, int(gigabytes * 2**30))

    weights = (
        COPIES * 4 * sum(p.numel() for p in build("resnet18", num_classes=3, image_size=64).parameters())
    )
    one = kept_bytes(build("resnet18", num_classes=3, image_size=64), 64)
    assert most(64, 8) == int(STEP_SHARE * (8 * 2**30 - weights)) // one
    assert most(64, 16) > 1.9 * most(64, 8)
    assert most(128, 8) < most(64, 8) / 3.5
    assert most(512, 0.1) == 2  # and the run says what to do


def test_a_preset_takes_the_memory_of_a_gpu_in_place_of_what_suits_two_cores(digits: PackedDataset) -> None:
    info = digits.info.model_copy(
        update={"image_size": 224, "counts": {**digits.info.counts, "train": 45_000}}
    )
    on_cpus, small, large = (
        preset("fast", info, "resnet18", memory).training.batch_size
        for memory in (None, 2 * 2**30, 80 * 2**30)
    )
    assert on_cpus == 40
    assert small == 16
    assert large == 125  # the most that AdamW's rates are for


def test_memory_that_pytorch_keeps_for_itself_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("mem_get_info", (10, 100)), ("memory_reserved", 50), ("memory_allocated", 20)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert free_memory(torch.device("cuda")) == 40


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: tests/integration/test_gpu.py")
def test_a_machine_without_a_gpu_has_no_memory_of_one() -> None:
    assert gpu_memory() is None
