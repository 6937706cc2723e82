"""The first stages of a network whose weights stay. What they make of each image is computed once, and kept.

    frozen = FrozenStages(network, 3, train, card, dtype, workers, mirrored=True)
    logits = frozen.logits(parallel, indices, mirrored)    # the later stages alone are computed, and learn

On a few cores, most of the time of a photograph goes into the first stages, whose maps are large. They hold what is
general, and change least in fine-tuning anyway (Yosinski et al., arXiv:1411.1792).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import psutil
import torch
from torch import Tensor, nn

from raycls import progress
from raycls.config import Config
from raycls.data.tensors import normalize
from raycls.errors import ConfigError
from raycls.models.base import BATCH_NORMS, Network
from raycls.models.card import ModelCard
from raycls.models.forward import compute_dtype
from raycls.training.memory import free_memory
from raycls.training.profile import mark
from raycls.training.sampling import DEVICE_SHARE, Batch, Split
from raycls.training.workers import Workers

BATCH_PIXELS = 64 * 224 * 224  # of the images of one forward pass
MEMORY_SHARE = 0.4  # of the memory that is free, at most, for what the stages make


class _Reached(Exception):
    """The boundary has made its output: nothing behind it is computed."""


def frozen_stages(
    config: Config, network: Network, train: Split, card: ModelCard, workers: Workers
) -> FrozenStages | None:
    """Return the stages that a configuration freezes, or None. Raises ConfigError where memory does not hold them."""
    stages = config.training.frozen_stages
    if not stages:
        return None
    dtype = compute_dtype(config.training.precision, next(network.parameters()).device)
    return FrozenStages(network, stages, train, card, dtype, workers, mirrored=config.augment.flip)


class FrozenStages:
    """The frozen stages of one network, and what they make of the training images, and of their mirror images."""

    def __init__(
        self,
        network: Network,
        stages: int,
        train: Split,
        card: ModelCard,
        dtype: torch.dtype,
        workers: Workers,
        *,
        mirrored: bool,
    ):
        self._network, self._dtype = network, dtype
        self._frozen = {id(parameter) for stage in network.stages()[:stages] for parameter in stage}
        self._freeze()
        self._boundary = network.boundary(stages)
        self._device = next(network.parameters()).device
        # The frozen modules compute one blank image in each step, as the boundary cannot be reached without them.
        self._blank = torch.zeros(1, 3, card.image_size, card.image_size, device=self._device, dtype=dtype)
        self._made = self._computed(train, card, workers, 2 if mirrored else 1)
        self._position = torch.full((len(train.labels),), -1, dtype=torch.int64)
        self._position[train.chosen.cpu()] = torch.arange(len(train.chosen))
        self._position = self._position.to(self._made.device)

    def ahead(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        """Yield each batch of indices (int64 B) on the device. No image is read: its stages are known."""
        none = torch.empty((0, *self._blank.shape[2:], 3), dtype=torch.uint8, device=self._device)
        for indices in batches:
            here = indices.to(self._device)
            yield Batch(here, none, here[:0])

    def logits(self, network: Callable[[Tensor], Tensor], indices: Tensor, mirrored: Tensor | None) -> Tensor:
        """Return the logits (float32 B×C) of training images at indices (int64 B). mirrored: bool B, of each image.

        network: the one of these stages, or what calls it.
        """
        mark("read")
        views = torch.zeros_like(indices) if mirrored is None else mirrored.long()
        at = self._made.device
        made = self._made[self._position[indices.to(at)], views.to(at)].to(self._device)
        if made.dim() == 4:
            made = made.contiguous(memory_format=torch.channels_last)
        mark("forward")
        handle = self._boundary.register_forward_hook(lambda *_: made)
        try:
            with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                return network(self._blank).float()
        finally:
            handle.remove()

    def _freeze(self) -> None:
        for parameter in self._network.parameters():
            if id(parameter) in self._frozen:
                parameter.requires_grad_(False)

    def keep(self) -> None:
        """Keep frozen what `network.train()` and the end of `frozen_epochs` let change."""
        self._freeze()
        for module in self._network.modules():
            if isinstance(module, BATCH_NORMS) and id(module.weight) in self._frozen:
                module.eval()

    @torch.no_grad()
    def _computed(self, train: Split, card: ModelCard, workers: Workers, views: int) -> Tensor:
        """Return N×views×…: each worker computes its part, and gets those of the others."""
        self._network.eval()
        shape = self._output(torch.zeros_like(self._blank)).shape[1:]
        count = len(train.chosen)
        size = count * views * math.prod(shape) * self._dtype.itemsize
        at = self._device
        if at.type != "cpu" and size > DEVICE_SHARE * free_memory(at):
            at = torch.device("cpu")
        if at.type == "cpu" and size > (free := MEMORY_SHARE * psutil.virtual_memory().available):
            raise ConfigError(
                f"training.frozen_stages keeps {size / 1e9:.1f} GB for {count:,} images, and {free / 1e9:.1f} GB are "
                "free for it: freeze more stages, whose output is smaller, or none (frozen_stages=0)"
            )
        made = torch.zeros((count, views, *shape), dtype=self._dtype, device=at)
        rows = workers.share(torch.arange(count)).split(max(1, BATCH_PIXELS // card.image_size**2))
        read = train.ahead(train.chosen[part.to(train.chosen.device)] for part in rows)
        with progress.bar("computing the frozen stages", count) as bar:
            for part, batch in zip(rows, read, strict=True):
                inputs = normalize(batch.pixels, card.mean, card.std).to(self._dtype)
                for view in range(views):
                    made[part.to(at), view] = self._output(inputs.flip(-1) if view else inputs).to(made)
                bar.advance(len(part) * workers.size)
        workers.complete(made, self._device)
        return made

    def _output(self, inputs: Tensor) -> Tensor:
        """Return what the boundary makes of normalised images."""
        found: list[Any] = []

        def reached(module: nn.Module, given: Any, output: Any) -> None:
            found.append(output)
            raise _Reached

        handle = self._boundary.register_forward_hook(reached)
        try:
            with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
                self._network(inputs)
        except _Reached:
            pass
        finally:
            handle.remove()
        (output,) = found
        if not isinstance(output, Tensor):
            raise ConfigError("the stages of this network cannot be frozen: --set training.frozen_stages=0")
        return output
