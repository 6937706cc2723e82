"""The model of every serving peer: the checkpoint's network in float32, used as in PyTorch's documentation.

    model = Model(Path("checkpoint"))
    model.answers(torch.stack([model.pixels(png)]))     # [{"class_index": 3, "class_name": "cat", "confidence": 0.9}]

Decoding and resizing are raycls's, so that the answers can be compared. The servers differ; the model does not.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from raycls import machine
from raycls.data.decode import decode
from raycls.data.tensors import as_tensor, normalize
from raycls.data.transforms import to_square
from raycls.models import checkpoint


def threads(workers: int) -> int:
    """Return the number of threads for each of so many workers."""
    return max(1, machine.cores() // workers)


class Model:
    """The network of a checkpoint directory. threads sets PyTorch's threads in this process."""

    def __init__(self, directory: Path, threads: int = 1):
        torch.set_num_threads(threads)
        self.network, self.card = checkpoint.load(directory)
        # The benchmark counts these files in the peer's own TMPDIR, to wait until every worker has loaded the model.
        Path(tempfile.gettempdir(), f"loaded-{os.getpid()}").touch()

    def pixels(self, data: bytes) -> Tensor:
        """Return an encoded image as normalised float32, 3×S×S."""
        return self.prepared(decode(data))

    def prepared(self, image: Image) -> Tensor:
        """Return a decoded RGB image as normalised float32, 3×S×S."""
        pixels = to_square(image, self.card.image_size)
        return normalize(as_tensor(pixels)[None], self.card.mean, self.card.std)[0]

    @torch.inference_mode()
    def answers(self, inputs: Tensor) -> list[dict[str, Any]]:
        """Return one answer for each image. inputs: float32 N×3×S×S."""
        confidences, classes = (self.network(inputs) / self.card.temperature).softmax(1).max(1)
        return [
            {"class_index": index, "class_name": self.card.classes[index], "confidence": confidence}
            for index, confidence in zip(classes.tolist(), confidences.tolist(), strict=True)
        ]
