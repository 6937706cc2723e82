"""CIFAR-10 as it is downloaded, and every single wrong byte in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raycls.data import cifar10
from raycls.errors import DataError, SourceError


def test_the_real_thing_and_every_single_wrong_byte(tmp_path: Path) -> None:
    try:
        arrays, _ = cifar10.fetch(None, tmp_path)
    except SourceError as error:
        pytest.skip(f"CIFAR-10 cannot be had on this machine: {error}")
    assert arrays["test"][1][:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    mean = (arrays["train"][0] / np.float32(255)).mean(axis=(0, 1, 2), dtype=np.float64)
    assert np.allclose(mean, [0.49139968, 0.48215841, 0.44653091], atol=1e-6)
    for split, what, place in (
        ("train", 0, (49_999, 31, 31, 2)),
        ("train", 1, 25_000),
        ("test", 0, (0, 0, 0, 0)),
        ("test", 1, 9_999),
    ):
        arrays[split][what][place] ^= 1
        with pytest.raises(DataError, match=f"{('images', 'labels')[what]} of the {split} split"):
            cifar10.verify(arrays)
        arrays[split][what][place] ^= 1
    cifar10.verify(arrays)
