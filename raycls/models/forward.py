"""The forward pass in PyTorch: uint8 images to logits and embeddings, in a dtype that is fast on the device.

    logits, embedding = forward(network, as_tensor(images).to(device), card, compute_dtype("auto", device))

Training and PyTorch's engines share this code, so they compute the same. It knows a network and its card, not files.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from raycls import machine
from raycls.data.tensors import normalize, rescale, scale_and_shift
from raycls.errors import ConfigError
from raycls.models.base import Network
from raycls.models.card import ModelCard

Precision = Literal["auto", "bf16", "fp16", "fp32"]


def fast_bf16(device: torch.device) -> bool:
    """Return whether the device multiplies bfloat16 matrices faster than float32 ones."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return machine.fast_bf16()


def native_fp16(device: torch.device) -> bool:
    """Return whether the device multiplies float16 matrices in hardware made for it: NVIDIA's from Volta on."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (7, 0)


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """Return the dtype of convolutions and matrix products: the requested one, or for `auto` the device's fastest.

    Where both are as fast, bfloat16 is the better one: it has the range of float32. Raises ConfigError for fp16 on a
    CPU.
    """
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError(
            "training.precision=fp16 is for GPUs, and this training runs on CPUs: leave it out, or take bf16 or fp32"
        )
    if precision == "auto":
        if fast_bf16(device):
            return torch.bfloat16
        return torch.float16 if native_fp16(device) else torch.float32
    return {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}[precision]


@torch.inference_mode()
def forward(network: Network, images: Tensor, card: ModelCard, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return logits (float32 N×C) and embeddings (float32 N×D) of images (uint8 N×S×S×3) on the network's device.

    The logits are those that the network was trained with: not divided by the card's temperature.
    """
    inputs = normalize(images, card.mean, card.std)
    with torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32):
        embedding = network.embed(inputs.to(dtype))
        return network.classify(embedding).float(), embedding.float()


class WithNormalization(nn.Module):
    """A network and its normalisation as one module: uint8 N×S×S×3 to logits N×C and embeddings N×D."""

    _scale: Tensor
    _shift: Tensor

    def __init__(self, network: Network, card: ModelCard):
        super().__init__()
        self.network = network
        for name, values in zip(("_scale", "_shift"), scale_and_shift(card.mean, card.std), strict=True):
            self.register_buffer(name, values, persistent=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        embedding = self.network.embed(rescale(images, self._scale, self._shift))
        return self.network.classify(embedding), embedding
