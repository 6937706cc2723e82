"""Pictures of an encoded version: the blocks that one picture needed are kept for those beside it."""

from __future__ import annotations

import numpy as np
import pytest

from raycls.control_plane.datasets import _images
from raycls.data.forget import forget
from raycls.data.manifest import read_rows
from raycls.data.versions import open_dataset
from tests.datasets import count_blocks, make_version

pytestmark = pytest.mark.usefixtures("home")


def test_pictures_beside_each_other_read_their_block_once(monkeypatch: pytest.MonkeyPatch) -> None:
    images = {"train": np.random.default_rng(0).integers(0, 256, (20, 8, 8, 3)).astype(np.uint8)}
    made = make_version("many", images, {"train": np.arange(20) % 2}, ("a", "b"), store="encoded")
    read = count_blocks(monkeypatch)
    for row in (3, 4):
        assert np.array_equal(_images(open_dataset("many@1"), "train")[row], images["train"][row])
    assert read == [0]
    assert forget(read_rows(made)["sha256"][3].as_py()) == ["many@1"]
    assert np.array_equal(_images(open_dataset("many@1"), "train")[3], images["train"][4])
