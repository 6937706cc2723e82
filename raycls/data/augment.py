"""The random views a network trains on, as tensor code over a whole batch, on the device where the images are.

    images = random_views(train_images, indices, config.augment, mirrored=None, generator=generator)   # uint8
    images = reduced(images, 11 / 16)   # in the first epochs; uint8
    inputs = distort(normalize(images, mean, std), std, config.augment, generator)                      # float32
    inputs, targets = mix(inputs, labels, num_classes, config.augment, generator)   # only for mixup and cutmix

Every random number comes from `generator`, which lives on the images' device: a seeded run repeats itself, and no step
waits for the host. Knows pixels and labels only: which image is drawn when is the training loop's, and evaluation and
serving never come here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from raycls.config import AugmentConfig


def random_views(
    images: Tensor,
    indices: Tensor,
    augment: AugmentConfig,
    *,
    mirrored: Tensor | None,
    generator: torch.Generator,
) -> Tensor:
    """A batch of shifted and mirrored copies: uint8 B×S×S×3 out of images (uint8 N×S×S×3) at indices (int64, B).

    A shift reflects the image at its edges. mirrored (bool, B) says which samples are flipped left to right; None
    flips none.
    """
    shift, side = augment.translate, images.shape[1]
    if not shift and mirrored is None:
        return images[indices]
    count, axis = len(indices), torch.arange(side, device=images.device)
    rows = columns = axis.expand(count, side)
    if shift:
        moves = torch.randint(2 * shift + 1, (2, count, 1), generator=generator, device=images.device) - shift
        rows, columns = ((side - 1) - ((side - 1) - (axis + move).abs()).abs() for move in moves)
    if mirrored is not None:
        columns = torch.where(mirrored[:, None], columns.flip(1), columns)
    # Whole lines first, then the pixels within them: a third of the time that padding and windows take.
    lines = images.view(-1, 3 * side).index_select(0, (indices[:, None] * side + rows).flatten())
    starts = torch.arange(0, count * side * side, side, device=images.device).view(count, side, 1)
    pixels = lines.view(-1, 3).index_select(0, (starts + columns[:, None]).flatten())
    return pixels.view(count, side, side, 3)


def reduced(images: Tensor, share: float) -> Tensor:
    """Smaller copies: uint8 B×s×s×3 of uint8 B×S×S×3, s = share × S. Bilinear with antialiasing, rounded to uint8."""
    planes = images.permute(0, 3, 1, 2)
    if images.device.type != "cpu":  # uint8, an eighth of float32's time, is PyTorch's on a CPU alone
        planes = planes.float()
    smaller = F.interpolate(planes, scale_factor=share, mode="bilinear", antialias=True)
    if smaller.is_floating_point():
        smaller = smaller.round().byte()
    return smaller.permute(0, 2, 3, 1)


def distort(
    inputs: Tensor,
    std: Sequence[float],
    augment: AugmentConfig,
    generator: torch.Generator,
    *,
    scale: float = 1,
) -> Tensor:
    """Rotated, zoomed, lighter or darker, more or less contrasted, partly blanked: float B×3×S×S like inputs.

    inputs are normalised; std is what they were divided by, so that brightness can be a share of the 0..1 range.
    Rotation and zoom are one bilinear resampling that reflects the image at its edges. Contrast changes around each
    image's own mean colour; nothing is clipped at black and white. Cutout (arXiv:1708.04552) sets a square to 0, the
    dataset's mean colour; its centre is anywhere in the image, so that part of it may fall outside; where inputs were
    reduced, so is it, by `scale`. With all of these off, inputs are returned as they are and nothing is drawn.
    """
    if augment.rotate or augment.zoom:
        inputs = _turn(inputs, math.radians(augment.rotate), augment.zoom, generator)
    if augment.brightness or augment.contrast:
        shift, change = _symmetric(inputs, 2, generator)
        factor = 1 + augment.contrast * change
        offset = augment.brightness * shift / torch.tensor(std, device=inputs.device).view(3, 1, 1)
        inputs = inputs * factor + (inputs.mean((2, 3), keepdim=True) * (1 - factor) + offset)
    if augment.cutout:
        inputs = inputs * ~_boxes(
            inputs, augment.cutout * scale, generator
        )  # masked_fill would lose channels_last
    return inputs


def mix(
    inputs: Tensor, labels: Tensor, num_classes: int, augment: AugmentConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Each image blended with its neighbour in the batch, and the targets (float32 B×num_classes) that go with it.

    MixUp (arXiv:1710.09412) blends the whole image, CutMix (arXiv:1905.04899) pastes a box of the neighbour; where
    both are on, each batch takes one of them at random. Every image draws a share of its own. labels: int64, B.
    Batches are shuffled, so the neighbour is a random image.
    """
    weights = []
    if augment.mixup:
        weights.append(_beta(inputs, augment.mixup, generator))
    if augment.cutmix:
        sides = (1 - _beta(inputs, augment.cutmix, generator)).sqrt() * inputs.shape[-1]
        weights.append((~_boxes(inputs, sides, generator)).float())
    if len(weights) == 2:
        # A comparison on the device instead of an `if`: the host need not wait for the draw.
        coin = torch.rand((), generator=generator, device=inputs.device) < 0.5
        weights = [torch.where(coin, weights[0], weights[1])]
    (own,) = weights  # B×1×1×1, or B×1×S×S: how much of each pixel is the image's own
    share = own.mean((1, 2, 3))[:, None]
    targets = F.one_hot(labels, num_classes).float()
    return (
        torch.lerp(inputs.roll(1, 0), inputs, own.to(inputs.dtype)),
        torch.lerp(targets.roll(1, 0), targets, share),
    )


def _turn(inputs: Tensor, largest_angle: float, largest_zoom: float, generator: torch.Generator) -> Tensor:
    angle, change = (draw.flatten() for draw in _symmetric(inputs, 2, generator))
    angle, size = largest_angle * angle, 1 + largest_zoom * change
    # Rows of the map from a pixel of the result to its place in the input, both in -1..1 about the centre.
    cosine, sine, zero = angle.cos() / size, angle.sin() / size, torch.zeros_like(size)
    rows = torch.stack([cosine, sine, zero, -sine, cosine, zero], 1).view(-1, 2, 3).to(inputs.dtype)
    grid = F.affine_grid(rows, list(inputs.shape), align_corners=False)
    turned = F.grid_sample(inputs, grid, "bilinear", padding_mode="reflection", align_corners=False)
    return turned.contiguous(memory_format=torch.channels_last)


def _symmetric(inputs: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """count × B×1×1×1, uniform in -1..1."""
    draws = torch.rand((count, len(inputs), 1, 1, 1), generator=generator, device=inputs.device)
    return 2 * draws - 1


def _beta(inputs: Tensor, alpha: float, generator: torch.Generator) -> Tensor:
    """B×1×1×1, of the distribution Beta(alpha, alpha)."""
    # torch.distributions draws its Beta by this function too, but takes no generator to draw from.
    pairs = torch._sample_dirichlet(
        torch.full((len(inputs), 2), alpha, device=inputs.device), generator=generator
    )
    return pairs[:, :1, None, None]


def _boxes(inputs: Tensor, sides: Tensor | float, generator: torch.Generator) -> Tensor:
    """bool B×1×S×S: a square of that many pixels a side (one number, or B×1×1×1) about a random place in each image."""
    size = inputs.shape[-1]
    centres = torch.rand((2, len(inputs), 1, 1, 1), generator=generator, device=inputs.device) * size
    pixels = torch.arange(size, device=inputs.device) + 0.5
    near = [(pixels - centre).abs() * 2 <= sides for centre in centres]
    return near[0].mT & near[1]
