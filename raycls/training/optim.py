"""Optimisers and their learning-rate schedule.

Muon trains the filters and SGD the other parameters, or one optimiser (SGD, Adam, AdamW) trains all of them.

    optimizer = Optimizer(network, config.optim, batch_size=1000, dtype=torch.bfloat16)
    optimizer.schedule(step / total_steps)   # before every step
    optimizer.backward(loss)
    optimizer.step()                         # clip, update, clear the gradients

This module knows neither data nor Ray.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from raycls.config import OptimConfig
from raycls.models.base import Network

# The learning rates of airbench94_muon, divided by its Muon rate of 0.24. They are for a loss summed over the batch.
MOST_STAGES = 12  # as a transformer of the usual depth has
HEAD_LR, BIAS_LR = 0.67 / 0.24, 0.053 / 0.24
DECAY = 2e-6  # weight decay of head and biases per image of the batch, independent of their learning rate
# The whitening bias is frozen after this share of all steps. It hardly changes later, and its gradient costs a whole
# backward convolution.
WHITENING_SHARE = 3 / 8


def orthogonalize(matrix: Tensor, steps: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return roughly the nearest semi-orthogonal matrix: all singular values end between about 0.5 and 1.5.

    matrix: 2-D, float32. The computation uses `dtype`. This is a quintic Newton-Schulz iteration with Muon's
    coefficients (kellerjordan.github.io/posts/muon). They maximise the slope at zero, because speed matters more than
    accuracy here.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = (x / (x.norm() + 1e-7)).to(dtype)
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.T if tall else x).to(matrix.dtype)


class Muon(torch.optim.Optimizer):
    """Momentum with orthogonalised updates, for filters that keep a fixed norm (airbench94_muon).

    Each parameter is treated as a matrix with one row per output. Before each step it is scaled to the Frobenius norm
    sqrt(rows). So `lr` is the step size relative to the weights, and no weight decay is needed.
    """

    def __init__(self, params: list[nn.Parameter], lr: float, momentum: float, dtype: torch.dtype):
        super().__init__(params, {"lr": lr, "momentum": momentum})
        self._dtype = dtype

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:  # frozen
                    continue
                state = self.state[p]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(p.grad)
                buffer = state["momentum_buffer"].mul_(group["momentum"]).add_(p.grad)
                nesterov = p.grad.add(buffer, alpha=group["momentum"])
                update = orthogonalize(nesterov.reshape(len(p), -1), dtype=self._dtype).view(p.shape)
                p.mul_(len(p) ** 0.5 / p.norm()).add_(update, alpha=-group["lr"])


class Optimizer:
    """The optimisers of one network under one schedule, which changes each learning rate between 0 and its peak.

    batch_size: the global one. The SGD rates beside Muon are for a summed loss, but the training loop's loss is a mean.
    So these rates are multiplied by batch_size. dtype: of the forward pass, and of Muon's matrix products. Gradients
    must be averaged over the workers before `step`.

    Under float16, small gradients would become 0. So `backward` multiplies the loss, and `step` divides the gradients
    again. It skips the update where a gradient is not finite, and finds a smaller factor (arXiv:1710.03740).
    """

    def __init__(
        self, network: Network, config: OptimConfig, batch_size: int, dtype: torch.dtype = torch.float32
    ):
        self._config = config
        self._whitening = getattr(network, "whiten", None)
        self._trained = [p for p in network.parameters() if p.requires_grad]
        self._stages = network.stages() if config.layer_decay < 1 else []
        self._head = {id(p) for p in network.get_submodule("head").parameters()}
        self._all = self._with_muon(network, batch_size, dtype) if config.name == "muon" else [self._alone()]
        self._peaks = [[group["lr"] for group in opt.param_groups] for opt in self._all]
        device = next(network.parameters()).device.type
        self.scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
        self.lr = 0.0  # config.lr times the schedule's factor at the last scheduled step

    def _with_muon(
        self, network: nn.Module, batch_size: int, dtype: torch.dtype
    ) -> list[torch.optim.Optimizer]:
        lr, head = self._config.lr, self._head
        filters = [p for p in self._trained if p.ndim > 1 and id(p) not in head]
        groups: list[dict[str, Any]] = []
        for ratio, members in (
            (HEAD_LR * self._config.head_lr_factor, [p for p in self._trained if id(p) in head]),
            (BIAS_LR, [p for p in self._trained if p.ndim <= 1 and id(p) not in head]),
        ):
            rate = ratio * lr * batch_size
            groups.append({"params": members, "lr": rate, "weight_decay": DECAY * batch_size / rate})
        return [
            torch.optim.SGD([group for group in groups if group["params"]], momentum=0.85, nesterov=True),
            Muon(filters, lr=lr, momentum=0.6, dtype=dtype),
        ]

    def _alone(self) -> torch.optim.Optimizer:
        lr = self._config.lr
        rates = self._rates()
        groups: dict[tuple[float, float], list[nn.Parameter]] = {}
        for parameter in self._trained:
            # Weight decay helps matrices and filters. It does not help biases and norms.
            decay = self._config.weight_decay if parameter.ndim > 1 else 0.0
            groups.setdefault((rates[id(parameter)], decay), []).append(parameter)
        members: list[dict[str, Any]] = [
            {"params": chosen, "lr": rate, "weight_decay": decay} for (rate, decay), chosen in groups.items()
        ]
        if self._config.name == "sgd":
            return torch.optim.SGD(members, lr=lr, momentum=0.9, nesterov=True)
        return {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[self._config.name](members, lr=lr)

    def _rates(self) -> dict[int, float]:
        """Return the peak rate of each parameter by its id: lower, the nearer it is to the image (arXiv:1801.06146)."""
        rates = {id(parameter): self._config.lr for parameter in self._trained}
        # A network of many stages has as small a rate in its first one as one of MOST_STAGES.
        step = min(1.0, MOST_STAGES / max(1, len(self._stages)))
        for depth, stage in enumerate(reversed(self._stages), start=1):
            rate = self._config.lr * self._config.layer_decay ** (depth * step)
            rates |= {id(parameter): rate for parameter in stage}
        return rates | dict.fromkeys(self._head, self._config.lr * self._config.head_lr_factor)

    def schedule(self, progress: float) -> None:
        """Set every learning rate for the next step. progress: the share of all steps that are done, 0..1."""
        factor = rate_factor(self._config, progress)
        for opt, peaks in zip(self._all, self._peaks, strict=True):
            for group, peak in zip(opt.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
        self.lr = self._config.lr * factor
        if self._whitening is not None and progress >= WHITENING_SHARE:
            self._whitening.bias.requires_grad_(False)

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of a loss, a scalar."""
        self.scaler.scale(loss).backward()

    def step(self) -> None:
        # The scaler refuses an optimiser all of whose parameters are frozen.
        active = [opt for opt in self._all if any(p.grad is not None for p in _parameters(opt))]
        for opt in active:
            self.scaler.unscale_(opt)
        if self._config.clip_norm:
            nn.utils.clip_grad_norm_(self._trained, self._config.clip_norm)
        for opt in active:
            self.scaler.step(opt)
            opt.zero_grad(set_to_none=True)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        return {
            "optimizer": [opt.state_dict() for opt in self._all],
            "scaler": self.scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, in this precision or in another one."""
        for opt, own in zip(self._all, state["optimizer"], strict=True):
            opt.load_state_dict(own)
        if state.get("scaler"):  # not of a run in another precision, or of an earlier raycls
            self.scaler.load_state_dict(state["scaler"])


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]


def rate_factor(config: OptimConfig, progress: float) -> float:
    """Return the factor (0..1) of the peak learning rate. progress: the share of all steps that are done, 0..1.

    The factor rises linearly from 0 to 1 during the warm-up. Then it falls to 0, linearly or along half a cosine
    (arXiv:1608.03983).
    """
    if progress < config.warmup:
        return progress / config.warmup
    rest = (progress - config.warmup) / (1 - config.warmup)
    return 0.5 * (1 + math.cos(math.pi * rest)) if config.schedule == "cosine" else 1 - rest
