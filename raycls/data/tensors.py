"""The conversion of pixels to the input of a network: normalised tensors.

    batch = normalize(as_tensor(pixels[None]), mean, std)    # uint8 32×32×3 to float32 1×3×32×32

Training, evaluation and serving call this code after raycls/data/transforms.py, so all three feed a network the same
numbers. It knows neither files nor networks.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def as_tensor(images: np.ndarray) -> Tensor:
    """Return a tensor that shares the memory of `images`, which may be a read-only memory map.

    The caller must not write into the tensor.
    """
    if images.flags.writeable:
        return torch.from_numpy(images)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")
        return torch.from_numpy(images)


def normalize(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (images / 255 - mean) / std: uint8 N×S×S×3 to float32 N×3×S×S with channels_last strides.

    mean and std are per channel, in units of the 0..1 range, as in a dataset's manifest.
    """
    return rescale(images, *scale_and_shift(mean, std, images.device))


def scale_and_shift(
    mean: Sequence[float], std: Sequence[float], device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Return the factor and the summand by which `normalize` changes a pixel: float32, one for each channel."""
    scale = constant(tuple(1 / (255 * s) for s in std), device)
    shift = constant(tuple(-m / s for m, s in zip(mean, std, strict=True)), device)
    return scale, shift


@functools.lru_cache(maxsize=256)
def constant(values: tuple[float, ...], device: torch.device | None) -> Tensor:
    """Return numbers as a tensor (float32) on a device. It is made once: a step of training copies none to a GPU.

    The caller must not write into the tensor.
    """
    with torch.inference_mode(False):  # so that it can take part in a training step
        return torch.tensor(values, device=device)


def rescale(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return what `normalize` returns, from constants that are already on the images' device."""
    pixels = images.shape[1] * images.shape[2]
    # The constants are repeated to the length of an image. PyTorch does not vectorise a broadcast over three channels.
    values = torch.addcmul(shift.repeat(pixels), images.flatten(1).float(), scale.repeat(pixels))
    return values.unflatten(1, images.shape[1:]).permute(0, 3, 1, 2)
