"""The plain peer of `raycls score`: a DataLoader loop with the same network, as PyTorch's tutorials write inference.

    python benchmarks/peers/scoring/dataloader.py CHECKPOINT files.txt --workers 2    # last line: {"seconds": 12.3, …}

Workers decode with Pillow and torchvision's transforms, and the loop classifies batches of 64 in float32 and collects
the classes. It writes nothing, and ends at the first file that cannot be read. It is neither tuned nor slowed down.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from raycls import command, machine
from raycls.models import checkpoint

BATCH = 64


class Files(Dataset[Tensor]):
    def __init__(self, files: list[str], transform: transforms.Compose):
        self.files, self.transform = files, transform

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Tensor:
        with Image.open(self.files[index]) as image:
            return self.transform(image.convert("RGB"))


def main(arguments: list[str]) -> None:
    """Classify the files, and print the seconds from the first batch to the last. Raises CheckpointError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("files", type=Path)
    parser.add_argument("--workers", type=int, default=machine.cores())
    options = parser.parse_args(arguments)
    network, card = checkpoint.load(options.checkpoint)
    transform = transforms.Compose(
        [
            transforms.Resize(card.image_size),
            transforms.CenterCrop(card.image_size),
            transforms.ToTensor(),
            transforms.Normalize(card.mean, card.std),
        ]
    )
    files = options.files.read_text().splitlines()
    loader = DataLoader(Files(files, transform), batch_size=BATCH, num_workers=options.workers)
    answers: list[int] = []
    began = time.perf_counter()
    first = None
    network.eval()
    with torch.no_grad():
        for batch in loader:
            # The start of the workers is not counted, as it is not for the others.
            first = first or time.perf_counter()
            answers += network(batch).argmax(1).tolist()
    assert first
    seconds = time.perf_counter() - first
    print(json.dumps({"pictures": len(answers), "seconds": seconds, "start_seconds": first - began}))


if __name__ == "__main__":
    command.run(main)
