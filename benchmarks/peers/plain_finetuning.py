"""The plain peer of fine-tuning: all of a pretrained network, as tutorials train it, on the same packed dataset.

    run = finetune(dataset, "tf_efficientnet_lite0.in1k", Path("lite0.pth"), epochs=6, rate=3e-4, threads=2)
    run.epoch_seconds, run.test_accuracy

timm makes the network with a new head. Adam, batches of 32, RandomResizedCrop and mirror images by torchvision's
transforms over PIL, a DataLoader with two workers, and float32: the choices of PyTorch's and Keras' tutorials of
transfer learning. `benchmarks/pretrained.py` gives the rate. It is neither tuned further nor slowed down.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import timm
import torch
from peers.plain_cnn import PILDataset, PlainRun, accuracy, train_epoch
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms

from raycls.data.packed import DatasetInfo, PackedDataset

BATCH = 32


def finetune(
    dataset: PackedDataset,
    name: str,
    weights: Path,
    *,
    epochs: int,
    threads: int,
    rate: float,
    seed: int = 0,
    num_workers: int = 2,
) -> PlainRun:
    """Train all of timm's network `name` from the weights in a file (timm's names). Evaluate it after each epoch.

    A few steps train a network that is thrown away, so that the first epoch has no start-up cost.
    """
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    train = DataLoader(
        PILDataset(dataset, "train", _augmenting(dataset.info, name)),
        batch_size=BATCH,
        shuffle=True,
        num_workers=num_workers,
        drop_last=True,
    )
    test = DataLoader(
        PILDataset(dataset, "test", transforms.Compose(_plain(name))), batch_size=64, num_workers=num_workers
    )
    train_epoch(_network(dataset.info, name, weights), train, batches=3)
    network, run = _network(dataset.info, name, weights), PlainRun()
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    for _ in range(epochs):
        started = time.perf_counter()
        train_epoch(network, train, optimizer)
        run.epoch_seconds.append(time.perf_counter() - started)
        run.test_accuracy.append(accuracy(network, test))
    return run


def _network(info: DatasetInfo, name: str, weights: Path) -> nn.Module:
    network: nn.Module = timm.create_model(name, num_classes=len(info.classes))
    own = network.state_dict()
    given = torch.load(weights, weights_only=True)
    network.load_state_dict(
        {key: own[key] if own[key].shape != given[key].shape else given[key] for key in own}
    )
    return network


def _augmenting(info: DatasetInfo, name: str) -> transforms.Compose:
    mirror = [transforms.RandomHorizontalFlip()] if info.mirrorable else []
    return transforms.Compose([transforms.RandomResizedCrop(info.image_size), *mirror, *_plain(name)])


def _plain(name: str) -> list[Any]:
    known = timm.get_pretrained_cfg(name)
    assert known is not None
    return [transforms.ToTensor(), transforms.Normalize(known.mean, known.std)]
