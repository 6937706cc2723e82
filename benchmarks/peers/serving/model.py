"""What every serving peer computes: the checkpoint's network in float32, as PyTorch's documentation has it.

    model = Model(Path("checkpoint"))
    model.answers(torch.stack([model.pixels(png)]))     # [{"class_index": 3, "class_name": "cat", "confidence": 0.9}]

The pixels are raycls's, so that a peer's answers can be compared with ours; the servers differ, the model does not.
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
from raycls.data.tensors import as_tensor, normalize
from raycls.data.transforms import decode, to_square
from raycls.models import checkpoint


def threads(workers: int) -> int:
    """A worker's share of the cores."""
    return max(1, machine.cores() // workers)


class Model:
    """The network of a checkpoint directory, with so many of torch's threads in this process."""

    def __init__(self, directory: Path, threads: int = 1):
        torch.set_num_threads(threads)
        self.network, self.card = checkpoint.load(directory)
        # Who measures waits for as many of these as there are workers, in a folder of the server's own.
        Path(tempfile.gettempdir(), f"loaded-{os.getpid()}").touch()

    def pixels(self, data: bytes) -> Tensor:
        """float32 3×S×S, normalised, of an encoded image."""
        return self.prepared(decode(data))

    def prepared(self, image: Image) -> Tensor:
        """The same of a decoded one, in RGB."""
        pixels = to_square(image, self.card.image_size)
        return normalize(as_tensor(pixels)[None], self.card.mean, self.card.std)[0]

    @torch.inference_mode()
    def answers(self, inputs: Tensor) -> list[dict[str, Any]]:
        """One answer for each image of float32 N×3×S×S."""
        confidences, classes = self.network(inputs).softmax(1).max(1)
        return [
            {"class_index": index, "class_name": self.card.classes[index], "confidence": confidence}
            for index, confidence in zip(classes.tolist(), confidences.tolist(), strict=True)
        ]
