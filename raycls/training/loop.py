"""The training loop in plain PyTorch, on one device or as one of several workers.

    fit(config, open_dataset("cifar10"), on_epoch=lambda metrics, snapshot: print(metrics))

    for metrics, snapshot in start(config, open_dataset("cifar10")).epochs(): …    # the same, one epoch at a time

The training split is one uint8 tensor, on the device or the memory map itself, from which a batch is gathered; or it is
read from shards and decoded ahead. On a GPU, no step makes a tensor on the CPU or waits for a number. Each epoch seeds
its own random numbers, so a resumed run computes the same as an uninterrupted one. Knows no Ray.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from raycls.config import Config
from raycls.data.packed import PackedDataset
from raycls.models import checkpoint
from raycls.models.base import Network
from raycls.models.card import ModelCard, load_card
from raycls.models.forward import compute_dtype
from raycls.training import ending, layers
from raycls.training.data_parallel import DataParallel
from raycls.training.encoded_split import open_split
from raycls.training.first_weights import first_weights
from raycls.training.frozen import FrozenStages, frozen_stages
from raycls.training.linear_head import fit_head
from raycls.training.loss import cross_entropy
from raycls.training.optim import Optimizer
from raycls.training.probe import Probe
from raycls.training.profile import EpochRecorder, mark
from raycls.training.sampling import Batch, EpochOrder, Split, images_in_use
from raycls.training.setup import card_for, check
from raycls.training.snapshot import Snapshot, restore, taken
from raycls.training.validation import validate
from raycls.training.views import image_share, views
from raycls.training.within import Begun
from raycls.training.workers import Workers

OnPart = Callable[[Snapshot, Begun], None]


def fit(
    config: Config,
    dataset: PackedDataset,
    *,
    on_epoch: Callable[[dict[str, float], Snapshot], None],
    on_step: Callable[[int, int], None] = lambda done, total: None,
    on_part: OnPart | None = None,
    device: torch.device | str = "cpu",
    workers: Workers = Workers(),
    resume: Path | None = None,
    init: Path | None = None,
    weights: str | None = None,
    recorder: EpochRecorder | None = None,
) -> Network:
    """Train until the last epoch or until patience ends. Return the trained network (float32, on the device).

    Every worker calls on_epoch(metrics, snapshot) after each epoch, with the values that `Training.epochs` yields.
    on_step(done, total) is called after each step, and on_part as `Training.on_part` says. recorder: profiles one
    epoch. `start` describes the other arguments. Raises as `start` and `Training.epochs`.
    """
    training = start(
        config, dataset, device=device, workers=workers, resume=resume, init=init, weights=weights
    )
    if isinstance(training, Training):
        training.on_part = on_part
    epochs = recorder.epochs(training, on_step) if recorder else training.epochs(on_step)
    for metrics, snapshot in epochs:
        on_epoch(metrics, snapshot)
    return training.kept


def start(
    config: Config,
    dataset: PackedDataset,
    *,
    device: torch.device | str = "cpu",
    workers: Workers = Workers(),
    resume: Path | None = None,
    init: Path | None = None,
    weights: str | None = None,
) -> Training | Probe:
    """Return a Training that is ready for its first epoch, or for the next epoch of a resumed run; or a Probe.

    init: a checkpoint directory to take weights and normalisation from. Its network must be the same, not its classes.
    weights: a source of `raycls.training.shared_weights`. Without init and weights, the weights are random.
    resume: a checkpoint directory of the same run.

    Raises ConfigError if the configuration does not fit the dataset, the workers or the device.
    """
    check(config, dataset, workers.size)
    started = time.perf_counter()
    device = torch.device(device)
    parent = resume or init
    card = card_for(config, dataset.info, load_card(parent) if parent else None)
    torch.manual_seed(config.training.seed)
    network: Any = card.build().to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    train = open_split(dataset, "train", device, images_in_use(config, dataset))
    val = open_split(dataset, "val", device)
    first_weights(network, card, train, init=init, weights=weights, workers=workers)
    if resume:  # by whose statistics the layers are prepared, and whose stages are frozen
        network.load_state_dict(checkpoint.load(resume)[0].state_dict())
    network = layers.prepared(network, config, card, workers, device)
    if config.training.probe:
        training: Training | Probe = Probe(config, card, network, train, val, workers, started)
    else:
        if config.training.fitted_head and not resume:
            fit_head(network, card, train, val, config, workers)
        frozen = frozen_stages(config, network, train, card, workers)
        training = Training(config, card, network, train, val, workers, started, frozen)
    if resume:
        training.load(resume)
    return training


class Training:
    """The state of one worker's training: the weights, their average, the optimiser, and the metrics of each epoch.

    `start` creates it. `started` is the time of that (time.perf_counter). begun: what a resumed epoch has behind it.
    """

    def __init__(
        self,
        config: Config,
        card: ModelCard,
        network: Network,
        train: Split,
        val: Split,
        workers: Workers,
        started: float,
        frozen: FrozenStages | None = None,
    ):
        self.frozen = frozen
        self.config, self.card, self.network, self.workers = config, card, network, workers
        self.train, self.val, self.started = train, val, started
        self.device = next(network.parameters()).device
        self.dtype = compute_dtype(config.training.precision, self.device)
        self.optimizer = Optimizer(network, config.optim, config.training.batch_size, self.dtype)
        self.parallel = DataParallel(network, workers, self.device)
        self.order = EpochOrder(config, train, workers, card.image_size)
        self.average = (
            AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(config.optim.ema), use_buffers=True)
            if config.optim.ema
            else None
        )
        balanced = config.training.balance == "weights"
        self.class_weights = train.class_weights(len(card.classes)).to(self.device) if balanced else None
        self.history: list[dict[str, float]] = []  # every epoch's metrics, in order
        # Called by every worker after each part of an epoch but the last, with a state to resume from.
        self.on_part: OnPart | None = None
        self.begun: Begun | None = None

    @property
    def epoch(self) -> int:
        """Return how many epochs were trained."""
        return len(self.history)

    @property
    def kept(self) -> Network:
        """Return the network that is validated, saved and returned: the averaged one if averaging is on."""
        return cast(Network, self.average.module) if self.average else self.network

    def epochs(
        self, on_step: Callable[[int, int], None] = lambda done, total: None
    ) -> Iterator[tuple[dict[str, float], Snapshot]]:
        """Train one epoch at a time until the last epoch or until patience ends. Yield metrics and a snapshot for each.

        The metrics are the same on all workers:
        - epoch: counted from 1
        - train_loss, train_accuracy: means over the epoch's steps, on augmented images. The larger part of a mixed
          image is its class.
        - val_loss: mean cross entropy, on images of the epoch's size; it and the next ones not where val is empty
        - val_accuracy: 0..1
        - val_macro_accuracy, val_macro_f1: means over the classes with images
        - image_share: the side of the epoch's images, as a share of the whole side
        - lr: at the epoch's last step
        - images_per_s: training throughput of all workers together
        - train_seconds: time in the training loop so far, including whitening, augmentation and validation

        on_step(done, total) is called after each step. Raises TrainingError if the loss is not finite.
        """
        while not self.finished:
            epoch, behind = self.epoch, self.begun["epoch_seconds"] if self.begun else 0.0
            self._epoch_started = time.perf_counter() - behind
            train_loss, train_accuracy = self.train_epoch(epoch, on_step).tolist()
            seconds = time.perf_counter() - self._epoch_started
            ending.check_loss(train_loss, self.config, epoch + 1)
            mark("validation")
            share = image_share(self.config.training, epoch)
            validation = validate(self.kept, self.val, self.card, self.dtype, self.workers, share)
            mark("other")
            ending.check_validation(validation.get("val_loss", 0.0), self.config, epoch + 1)
            metrics = {
                "epoch": epoch + 1,
                "train_loss": train_loss,
                "train_accuracy": train_accuracy,
                **validation,
                "image_share": share,
                "lr": self.optimizer.lr,
                "images_per_s": self.order.steps * self.config.training.batch_size / seconds,
                "train_seconds": time.perf_counter() - self.started,
            }
            self.history.append(metrics)
            yield metrics, taken(self, metrics)

    @property
    def finished(self) -> bool:
        """Return whether the last epoch was trained or patience has ended."""
        return ending.finished(self.history, self.config.training)

    def load(self, directory: Path) -> None:
        """Restore the state from a checkpoint directory of this run."""
        restore(self, directory)

    def train_epoch(self, epoch: int, on_step: Callable[[int, int], None]) -> Tensor:
        """Train on all whole batches of the epoch. Return mean loss and accuracy over steps and workers, float32 2."""
        config, steps, total = self.config, self.order.steps, self.order.steps * self.config.training.epochs
        self.network.train()
        layers.freeze(self.network, config, epoch)
        if self.frozen:
            self.frozen.keep()
        first, known = (self.begun["step"], self.begun["sums"]) if self.begun else (0, [0.0, 0.0])
        sums, self.begun = torch.tensor(known, device=self.device), None
        mark("read")
        read = (self.frozen or self.train).ahead(self.order.batches(epoch, first))
        for step, batch in enumerate(read, first):
            if step == first or step % self.order.part == 0:
                if self.on_part and step > first:
                    self._part(epoch, step, sums)
                self.order.seed(epoch, step)
            done = (epoch * steps + step) / total
            self.optimizer.schedule(done)
            if done >= config.training.freeze_after:
                self.network.freeze_early()  # type: ignore[operator]
            sums += self._step(batch, epoch)
            on_step(epoch * steps + step + 1, total)
            mark("read")
        mark("other")
        return self._agreed(sums) / steps

    def _part(self, epoch: int, step: int, sums: Tensor) -> None:
        """Give `on_part` the state before a step, the same on all workers."""
        agreed, now = self._agreed(sums), time.perf_counter()
        begun = Begun(
            epoch=epoch,
            step=step,
            workers=self.workers.size,
            sums=agreed.tolist(),
            epoch_seconds=now - self._epoch_started,
            train_seconds=now - self.started,
        )
        assert self.on_part
        metrics = (self.history[-1] if self.history else {"epoch": 0.0}) | {"step": float(step)}
        self.on_part(taken(self, metrics, begun=begun), begun)

    def _agreed(self, sums: Tensor) -> Tensor:
        """Return the mean of sums over the workers, and give all of them the mean of the networks' statistics."""
        networks = [self.network, self.average.module] if self.average else [self.network]
        buffers = [b for network in networks for b in network.buffers() if b.is_floating_point()]
        self.workers.average([mean := sums.clone(), *buffers])
        return mean

    def _step(self, batch: Batch, epoch: int) -> Tensor:
        """Run forward, backward and update on this worker's part of a batch.

        Return its loss and accuracy (float32 2), weighted so that their mean over the workers is the batch's.
        """
        config, order = self.config, self.order
        mirrored = order.mirrored(batch.indices, epoch) if config.augment.flip else None
        if self.frozen:
            targets = self.train.labels[batch.indices]
            logits = self.frozen.logits(self.parallel, batch.indices, mirrored)
        else:
            share = image_share(config.training, epoch)
            inputs, targets = views(self.train, batch, mirrored, config.augment, self.card, order, share)
            mark("forward")
            with torch.autocast(self.device.type, self.dtype, enabled=self.dtype != torch.float32):
                logits = self.parallel(inputs.to(self.dtype)).float()
        loss = cross_entropy(logits, targets, config.optim.label_smoothing, self.class_weights)
        weight = self.workers.weight(len(targets), config.training.batch_size)
        mark("backward")
        self.optimizer.backward(loss * weight)
        mark("average")
        self.parallel.average_gradients()
        mark("optimiser")
        self.optimizer.step()
        if self.average:
            self.average.update_parameters(self.network)
        mark("other")
        shown = targets if targets.ndim == 1 else targets.argmax(1)
        return weight * torch.stack([loss.detach(), (logits.argmax(1) == shown).float().mean()])
