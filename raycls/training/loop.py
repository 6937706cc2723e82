"""The training loop: plain torch, in any process, on one device or as one of several equal workers.

    fit(config, open_dataset("cifar10"), on_epoch=lambda metrics, snapshot: print(metrics))

The whole training split is one uint8 tensor on the device (or the memory map itself on a CPU); a batch is a gather
out of it. Every epoch seeds its own random numbers, so that a run resumed at an epoch repeats what the undisturbed
run would have done. Knows no Ray: who the other workers are comes in as `Workers`, who hears of an epoch as a
function.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from raycls.config import Config
from raycls.data.packed import PackedDataset
from raycls.data.transforms import as_tensor, normalize, random_views
from raycls.errors import ConfigError, TrainingError
from raycls.models import checkpoint
from raycls.models.networks import FastCNN, build
from raycls.models.predictor import compute_dtype, forward
from raycls.training.optim import Optimizer

STATE = "training_state.pt"
EVAL_BATCH = 1000


@dataclass(frozen=True)
class Workers:
    """This process among the equal ones that train together, in torch's default process group when `size` > 1."""

    rank: int = 0
    size: int = 1

    def share(self, indices: Tensor) -> Tensor:
        """This worker's part of a batch; the parts differ by at most one image."""
        return indices.tensor_split(self.size)[self.rank]

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over the workers: one message, as small networks are bound by latency."""
        if self.size == 1 or not tensors:
            return
        flat = torch.cat([t.reshape(-1) for t in tensors])
        dist.all_reduce(flat)
        flat /= self.size
        for tensor, mean in zip(tensors, flat.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))


class Snapshot:
    """The state after an epoch. Valid during `on_epoch` only: the next step changes the weights."""

    def __init__(self, network: nn.Module, optimizer: Optimizer, epoch: int, card: checkpoint.ModelCard):
        self._network, self._optimizer, self.epoch, self.card = network, optimizer, epoch, card

    def save(self, directory: Path) -> None:
        """A whole checkpoint directory, with what resuming needs beside the weights."""
        checkpoint.save(directory, self._network, self.card)
        torch.save({"epoch": self.epoch, "optimizer": self._optimizer.state_dict()}, directory / STATE)


def check(config: Config, dataset: PackedDataset) -> None:
    """Raise ConfigError where this configuration cannot train on this dataset, before anything is started."""
    images = images_in_use(config, dataset)
    if config.training.batch_size > images:
        raise ConfigError(
            f"training.batch_size={config.training.batch_size} is more than the {images} training images in use; "
            f"try --set batch_size={max(2, images // 16)}"
        )
    if config.training.reduced_share and not _build(config, dataset).any_size:
        raise ConfigError(f"{config.network.name} takes one image size only: --set training.reduced_share=0")


def fit(
    config: Config,
    dataset: PackedDataset,
    *,
    on_epoch: Callable[[dict[str, float], Snapshot], None],
    on_step: Callable[[int, int], None] = lambda done, total: None,
    device: torch.device | str = "cpu",
    workers: Workers = Workers(),
    resume: Path | None = None,
) -> nn.Module:
    """Train to the last epoch and return the network as it then is (float32, on the device).

    After each epoch, every worker calls on_epoch(metrics, snapshot) with the same metrics: epoch (from 1),
    train_loss, val_loss (mean cross entropy, smoothed and plain), val_accuracy (0..1), images_per_s (all workers),
    train_seconds (the loop so far: whitening, augmentation and validation included). on_step(done, total) follows
    every step. resume is a checkpoint directory of the same run.

    Raises ConfigError for a batch that the split cannot fill, TrainingError when the loss is no longer finite.
    """
    check(config, dataset)
    started = time.perf_counter()
    device = torch.device(device)
    dtype = compute_dtype(config.training.precision, device)
    torch.manual_seed(config.training.seed)
    network = _build(config, dataset).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = Optimizer(network, config.optim, config.training.batch_size)
    train, val = (
        _Split(dataset, "train", device, images_in_use(config, dataset)),
        _Split(dataset, "val", device),
    )
    card = _card(config, dataset)

    first_epoch = 0
    if resume:
        network.load_state_dict(checkpoint.load(resume)[0].state_dict())
        state = torch.load(resume / STATE, map_location=device, weights_only=True)
        optimizer.load_state_dict(state["optimizer"])
        first_epoch = state["epoch"]
    elif isinstance(network, FastCNN):
        network.init_whitening(normalize(train.images[train.chosen[:5000]], card.mean, card.std))

    for epoch in range(first_epoch, config.training.epochs):
        epoch_started = time.perf_counter()
        train_loss = _train_epoch(network, optimizer, train, config, card, workers, epoch, on_step)
        workers.average([b for b in network.buffers() if b.is_floating_point()])
        seconds = time.perf_counter() - epoch_started
        if not torch.isfinite(train_loss):
            raise TrainingError(
                f"the loss became {train_loss.item()} in epoch {epoch + 1}: "
                f"lower the learning rate (optim.lr={config.optim.lr:g})"
            )
        val_loss, val_accuracy = _validate(network, val, card, dtype, workers)
        metrics = {
            "epoch": epoch + 1,
            "train_loss": train_loss.item(),
            "val_loss": val_loss,
            "val_accuracy": val_accuracy,
            "images_per_s": _steps(config, train) * config.training.batch_size / seconds,
            "train_seconds": time.perf_counter() - started,
        }
        card = card.model_copy(update={"metrics": metrics})
        on_epoch(metrics, Snapshot(network, optimizer, epoch + 1, card))
    return network


def _train_epoch(
    network: nn.Module,
    optimizer: Optimizer,
    train: _Split,
    config: Config,
    card: checkpoint.ModelCard,
    workers: Workers,
    epoch: int,
    on_step: Callable[[int, int], None],
) -> Tensor:
    """One pass over the training images in whole batches; the mean loss over steps and workers (float32, a scalar)."""
    network.train()
    device = train.labels.device
    dtype = compute_dtype(config.training.precision, device)
    batch_size, steps = config.training.batch_size, _steps(config, train)
    total = steps * config.training.epochs
    # Early epochs learn coarse features, which three quarters of the side show at half the cost.
    reduced = epoch < round(config.training.reduced_share * config.training.epochs)
    order, views = _generators(config.training.seed, epoch, workers)
    permutation = train.chosen[torch.randperm(len(train.chosen), generator=order)].to(device)
    losses = torch.zeros((), device=device)
    for step in range(steps):
        indices = workers.share(permutation[step * batch_size : (step + 1) * batch_size])
        images = random_views(
            train.images,
            indices,
            translate=config.augment.translate,
            mirrored=_mirrored(indices, epoch, config.training.seed) if config.augment.flip else None,
            generator=views,
        )
        inputs = normalize(images, card.mean, card.std)
        if reduced:
            inputs = F.interpolate(inputs, scale_factor=0.75, mode="bilinear", antialias=True)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            logits = network(inputs.to(dtype)).float()
        loss = F.cross_entropy(logits, train.labels[indices], label_smoothing=config.optim.label_smoothing)
        optimizer.schedule((epoch * steps + step) / total)
        loss.backward()
        workers.average([p.grad for p in network.parameters() if p.grad is not None])
        optimizer.step()
        network.zero_grad(set_to_none=True)
        losses += loss.detach()
        on_step(epoch * steps + step + 1, total)
    mean = losses / steps
    workers.average([mean])
    return mean


def _steps(config: Config, train: _Split) -> int:
    return len(train.chosen) // config.training.batch_size


class _Split:
    """One split's images (uint8 N×S×S×3) and labels (int64 N) where the device reaches them."""

    def __init__(self, dataset: PackedDataset, split: str, device: torch.device, count: int | None = None):
        self.images = as_tensor(dataset.images(split)).to(device)
        self.labels = as_tensor(dataset.labels(split)).to(device)
        # The same images for every seed and configuration: studies compare like with like.
        sample = torch.randperm(len(self.labels), generator=torch.Generator().manual_seed(0))
        self.chosen = sample[:count]


def images_in_use(config: Config, dataset: PackedDataset) -> int:
    return max(1, round(dataset.manifest.counts["train"] * config.training.train_fraction))


def _build(config: Config, dataset: PackedDataset) -> nn.Module:
    return build(
        config.network.name,
        num_classes=len(dataset.manifest.classes),
        image_size=dataset.manifest.image_size,
        widths=config.network.widths,
        dropout=config.network.dropout,
    )


def _card(config: Config, dataset: PackedDataset) -> checkpoint.ModelCard:
    manifest = dataset.manifest
    return checkpoint.ModelCard(
        network=config.network.name,
        arguments={"widths": list(config.network.widths), "dropout": config.network.dropout},
        classes=manifest.classes,
        image_size=manifest.image_size,
        mean=manifest.mean,
        std=manifest.std,
        metrics={},
        dataset=manifest.name,
        dataset_fingerprint=manifest.fingerprint,
        config=config.model_dump(mode="json"),
        seed=config.training.seed,
        **checkpoint.provenance(),
    )


def _generators(seed: int, epoch: int, workers: Workers) -> tuple[torch.Generator, torch.Generator]:
    """The epoch's order of images (the same on every worker) and its random views (each worker's own).

    Seeds torch's global generator as well, which dropout draws from.
    """

    def derived(stream: int) -> int:
        return int(np.random.SeedSequence((seed, epoch, stream)).generate_state(1, np.uint64)[0] >> 1)

    torch.manual_seed(derived(2 + 2 * workers.rank))
    views = torch.Generator().manual_seed(derived(1 + 2 * workers.rank))
    return torch.Generator().manual_seed(derived(0)), views


def _mirrored(indices: Tensor, epoch: int, seed: int) -> Tensor:
    """Which images are flipped: a random half at first, then each image every other epoch (airbench's alternation).

    The half is a hash of the image's index, so that every worker and every resumed run agrees on it.
    """
    start = ((indices + seed) * 2654435761 >> 15) & 1  # Knuth's multiplicative hash
    return (start + epoch) % 2 == 1


def _validate(
    network: nn.Module, val: _Split, card: checkpoint.ModelCard, dtype: torch.dtype, workers: Workers
) -> tuple[float, float]:
    """Mean cross entropy and accuracy over the validation split, each worker doing its share."""
    network.eval()
    mine = workers.share(torch.arange(len(val.labels), device=val.labels.device))
    sums = torch.zeros(2, dtype=torch.float64, device=val.labels.device)
    for part in mine.split(EVAL_BATCH):
        logits = forward(network, val.images[part], card, dtype)
        sums[0] += F.cross_entropy(logits, val.labels[part], reduction="sum")
        sums[1] += (logits.argmax(1) == val.labels[part]).sum()
    workers.average([sums])
    loss, correct = (sums * workers.size / len(val.labels)).tolist()
    return loss, correct
