"""Changes that break a checkpoint, by name. A version with one of them must not be served.

for name, change in BROKEN.items():
    change(checkpoint_directory)
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from raycls.models.card import CARD, WEIGHTS, load_card

Change = Callable[[Path], None]


def cut_short(directory: Path) -> None:
    os.truncate(directory / WEIGHTS, 1000)


def _weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Change:
    def changed(directory: Path) -> None:
        weights = load_file(directory / WEIGHTS)
        save_file(
            {name: change(t) if t.is_floating_point() else t for name, t in weights.items()},
            directory / WEIGHTS,
        )

    return changed


def _other_classes(directory: Path) -> None:
    count = len(load_card(directory).classes)
    _card(directory, classes=[f"class {index}" for index in range(count)])


def _card(directory: Path, **changed: object) -> None:
    path = directory / CARD
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))


BROKEN: dict[str, Change] = {
    "a damaged checkpoint": cut_short,
    "answers are NaN": _weights(lambda tensor: tensor * float("nan")),
    "all weights are zero": _weights(torch.zeros_like),
    "other classes": _other_classes,
    "a network that raises": lambda directory: _card(directory, image_size=0),
}
