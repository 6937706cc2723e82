"""Which weights a command starts from: what would silently be others is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycls.cli.training import configuration, weights_path
from raycls.data.packed import PackedDataset
from raycls.errors import UsageError


def test_a_checkpoint_of_raycls_is_no_file_of_weights(directory: Path) -> None:
    file = directory / "model.safetensors"
    assert file.is_file()
    with pytest.raises(UsageError, match=r"checkpoint of raycls.*with --init MODEL"):
        weights_path(str(file), None, None)


def test_a_network_of_timm_is_not_begun_with_random_weights_by_a_setting(digits: PackedDataset) -> None:
    name = "timm/test_vit.r160_in1k"
    settings = [f"network.name={name}", "widths=[]", "optim.name=adamw"]
    with pytest.raises(UsageError, match=f"take --network {name}, which brings its own"):
        configuration("digits", None, None, None, settings)
    assert configuration("digits", None, name, None, None).network.name == name  # as with --weights none
