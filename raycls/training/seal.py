"""Whether a checkpoint is whole, told by a small file in it: a bucket need not send the weights to say so.

    write(directory, history)                # when all other files are there
    history = read(filesystem, path)         # None where a file is missing or was cut short

The file holds the metrics of every epoch so far, and the sizes of the other files.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from raycls.models.card import CARD, WEIGHTS

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

STATE = "training_state.pt"  # what a resumed run needs beside weights and card
SEAL = "complete.json"

History = list[dict[str, float]]


def write(directory: Path, history: Sequence[dict[str, float]]) -> None:
    """Say that the checkpoint in the directory is whole. history: the metrics of every epoch up to it, in order."""
    sizes = {name: (directory / name).stat().st_size for name in (WEIGHTS, CARD, STATE)}
    (directory / SEAL).write_text(json.dumps({"sizes": sizes, "history": list(history)}))


def read(filesystem: FileSystem, path: str) -> History | None:
    """Return the history of a whole checkpoint. None: a file of it is missing or has another size.

    Raises OSError where it cannot be read, as in checkpoints of before December 2026, which have no such file.
    """
    from pyarrow.fs import FileSelector

    found = {each.base_name: each.size for each in filesystem.get_file_info(FileSelector(path))}
    if SEAL not in found:
        raise FileNotFoundError(f"{path} has no {SEAL}")
    with filesystem.open_input_file(f"{path}/{SEAL}") as file:
        try:
            sealed = json.loads(file.read())
        except ValueError:  # it was cut short
            return None
    whole = all(found.get(name) == size for name, size in sealed["sizes"].items())
    history: History | None = sealed["history"] if whole else None
    return history
