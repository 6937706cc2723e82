"""The plain peer of training: a CNN with two convolutions, as tutorials write it, on the same packed dataset.

    python benchmarks/peers/plain_cnn.py --epochs 1      # last line: {"epoch_seconds": [21.3], "test_accuracy": [0.58]}

It uses Adam at 1e-3, batches of 64, a DataLoader over PIL transforms with num_workers=2, and float32. These are the
choices of PyTorch's CIFAR-10 tutorial (pytorch.org/tutorials/beginner/blitz/cifar10_tutorial.html). It is the unit of
time in `benchmarks/training.py`. It is neither tuned nor slowed down.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, field

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from raycls import command, machine
from raycls.data.packed import DatasetInfo, PackedDataset
from raycls.data.versions import open_dataset

WARMUP_BATCHES = 20


@dataclass
class PlainRun:
    """For each epoch: the time of its pass over the training split, s, and the test accuracy (0..1) after it."""

    epoch_seconds: list[float] = field(default_factory=list)
    test_accuracy: list[float] = field(default_factory=list)


class PlainCNN(nn.Module):
    def __init__(self, num_classes: int, image_size: int):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 3, padding=1)
        self.conv2 = nn.Conv2d(32, 64, 3, padding=1)
        self.pool = nn.MaxPool2d(2)
        self.fc1 = nn.Linear(64 * (image_size // 4) ** 2, 128)
        self.fc2 = nn.Linear(128, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.conv1(x)))
        x = self.pool(torch.relu(self.conv2(x)))
        return self.fc2(torch.relu(self.fc1(x.flatten(1))))


class PILDataset(Dataset[tuple[Tensor, int]]):
    """One split in the way of torchvision's datasets: each array becomes a PIL image, then transforms are applied."""

    def __init__(self, dataset: PackedDataset, split: str, transform: transforms.Compose):
        self.images, self.labels, self.transform = dataset.images(split), dataset.labels(split), transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def train_epochs(
    dataset: PackedDataset, epochs: int, threads: int, *, seed: int = 0, num_workers: int = 2
) -> PlainRun:
    """Train a new network and evaluate it after each epoch. threads sets PyTorch's threads in this process.

    A few batches train a network that is thrown away, so that the first epoch has no start-up cost.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    info = dataset.info
    train = DataLoader(
        PILDataset(dataset, "train", _augmenting(info)),
        batch_size=64,
        shuffle=True,
        num_workers=num_workers,
    )
    test = DataLoader(PILDataset(dataset, "test", _plain(info)), batch_size=256, num_workers=num_workers)
    shape = (len(info.classes), info.image_size)
    train_epoch(PlainCNN(*shape), train, batches=WARMUP_BATCHES)
    network, run = PlainCNN(*shape), PlainRun()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    for _ in range(epochs):
        started = time.perf_counter()
        train_epoch(network, train, optimizer)
        run.epoch_seconds.append(time.perf_counter() - started)
        run.test_accuracy.append(accuracy(network, test))
    return run


def _augmenting(info: DatasetInfo) -> transforms.Compose:
    steps = [transforms.RandomCrop(info.image_size, padding=4)]
    if info.mirrorable:
        steps.append(transforms.RandomHorizontalFlip())
    return transforms.Compose([*steps, *_plain(info).transforms])


def _plain(info: DatasetInfo) -> transforms.Compose:
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(info.mean, info.std)])


def train_epoch(
    network: nn.Module,
    loader: DataLoader[tuple[Tensor, int]],
    optimizer: torch.optim.Optimizer | None = None,
    batches: int | None = None,
) -> None:
    optimizer = optimizer or torch.optim.Adam(network.parameters(), lr=1e-3)
    criterion = nn.CrossEntropyLoss()
    network.train()
    for number, (images, labels) in enumerate(loader):
        if number == batches:
            break
        optimizer.zero_grad()
        criterion(network(images), labels).backward()
        optimizer.step()


@torch.no_grad()
def accuracy(network: nn.Module, loader: DataLoader[tuple[Tensor, int]]) -> float:
    network.eval()
    correct = total = 0
    for images, labels in loader:
        correct += int((network(images).argmax(1) == labels).sum())
        total += len(labels)
    return correct / total


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="cifar10", help="a prepared dataset (default: cifar10)")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument(
        "--threads", type=int, default=machine.cores(), help="threads of PyTorch (default: one per core)"
    )
    parser.add_argument("--num-workers", type=int, default=2, help="workers of the DataLoader (default: 2)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    run = train_epochs(
        open_dataset(options.dataset), options.epochs, options.threads,
        seed=options.seed, num_workers=options.num_workers,
    )  # fmt: skip
    print(json.dumps(asdict(run)))


if __name__ == "__main__":
    command.run(main)
