"""What does not fit into memory is computed in parts, under a real limit."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch

from raycls.engines.memory import InParts, out_of_memory

# 256 images of 64 KB that the network makes 256 times as large, where 1 GB more is left for all of it.
LIMITED = """
import resource, sys, numpy as np, psutil, torch
from raycls.engines.memory import InParts

torch.set_num_threads(1)
seen = []

def run(images):
    wide = torch.from_numpy(images).float().repeat(1, int(sys.argv[1]))
    seen.append(len(images))
    return wide.sum(1, keepdim=True).numpy(), wide[:, :2].clone().numpy()

images = np.arange(256 * 65536, dtype=np.uint8).reshape(256, 65536)
run(images[:1])
used = psutil.Process().memory_info().vms
resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), used + (1 << 30)))
whole = InParts(run)
for _ in range(2):
    logits, embeddings = whole(images)
    assert logits.shape == (256, 1) and (embeddings == images[:, :2]).all()
print(seen[1:])
"""


def _limited(factor: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LIMITED, str(factor)], check=False, capture_output=True, text=True, timeout=120
    )


def test_what_memory_does_not_hold_is_halved_and_stays_so() -> None:
    found = _limited(40)  # 2.7 GB at once
    assert found.returncode == 0, found.stderr
    assert found.stdout.strip() == str([64] * 8)
    assert "memory does not hold 256 images at once: 128 at a time" in found.stderr
    assert "memory does not hold 128 images at once: 64 at a time" in found.stderr


def test_a_single_image_that_is_too_large_is_an_error() -> None:
    found = _limited(20_000)  # 5 GB for one
    assert found.returncode == 1
    assert "1 at a time" in found.stderr
    assert "can't allocate memory" in found.stderr


def test_other_errors_are_not_tried_again() -> None:
    calls = []

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        calls.append(len(images))
        raise RuntimeError("another error")

    with pytest.raises(RuntimeError, match="another error"):
        InParts(run)(np.zeros((4, 2)))
    assert calls == [4]


def test_out_of_memory_is_told_from_other_errors() -> None:
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**50)
    assert out_of_memory(error.value)
    assert not out_of_memory(RuntimeError("shapes do not fit"))


def test_no_image_gives_no_answer() -> None:
    logits, embeddings = InParts(lambda images: (images, images))(np.zeros((0, 2)))
    assert (len(logits), len(embeddings)) == (0, 0)
