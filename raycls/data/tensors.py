"""From pixels to what a network is fed: tensors, normalised.

    batch = normalize(as_tensor(pixels[None]), mean, std)    # uint8 32×32×3 to float32 1×3×32×32

After raycls/data/transforms.py, and like it the one copy for training, evaluation and serving.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def as_tensor(images: np.ndarray) -> Tensor:
    """The same memory as a tensor, a read-only memory map included: nothing here writes into images."""
    if images.flags.writeable:
        return torch.from_numpy(images)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(images)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 N×S×S×3 to float32 N×3×S×S with channels_last strides, as (x / 255 - mean) / std.

    mean and std are per channel, in units of the 0..1 range, as the dataset's manifest gives them.
    """
    return rescale(images, *scale_and_shift(mean, std, images.device))


def scale_and_shift(
    mean: Sequence[float], std: Sequence[float], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """What `normalize` multiplies pixels by and then adds, float32, one of each channel."""
    scale = torch.tensor([1 / (255 * s) for s in std], device=device)
    shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)], device=device)
    return scale, shift


def rescale(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`normalize` with its constants ready on the device: nothing is copied there."""
    pixels = images.shape[1] * images.shape[2]
    # As wide as an image: over three channels at a time nothing is vectorised, which takes eight times as long.
    values = torch.addcmul(shift.repeat(pixels), images.flatten(1).float(), scale.repeat(pixels))
    return values.unflatten(1, images.shape[1:]).permute(0, 3, 1, 2)
