"""Random views of the training images, as tensor code over a whole batch, on the device that holds the images.

    images = random_views(train_images, indices, config.augment, mirrored=None, generator=generator)   # uint8
    images = reduced(images, 11 / 16)   # in the first epochs; uint8
    images = by_policy(images, "trivial")   # uint8
    inputs = distort(normalize(images, mean, std), mean, std, config.augment, generator)                # float32
    inputs, targets = mix(inputs, labels, num_classes, config.augment, generator)   # only for mixup and cutmix

Every random number but those of `by_policy` comes from `generator`, which lives on the images' device. So a seeded run
is reproducible, and no step waits for the host. This module knows pixels and labels only. The training loop decides the
order of the images. Evaluation and serving do not use it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from raycls.config import AugmentConfig
from raycls.data.tensors import constant


def random_views(
    images: Tensor,
    indices: Tensor,
    augment: AugmentConfig,
    *,
    mirrored: Tensor | None,
    generator: torch.Generator,
) -> Tensor:
    """Return shifted and mirrored copies, uint8 B×S×S×3, of images (uint8 N×S×S×3) at indices (int64, B).

    A shift reflects the image at its edges. mirrored (bool, B) says which copies are flipped left to right. None
    flips no copy.
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
    # Gathering whole lines, then the pixels in them, is faster than padding the images and cutting windows out.
    lines = images.view(-1, 3 * side).index_select(0, (indices[:, None] * side + rows).flatten())
    starts = torch.arange(0, count * side * side, side, device=images.device).view(count, side, 1)
    pixels = lines.view(-1, 3).index_select(0, (starts + columns[:, None]).flatten())
    return pixels.view(count, side, side, 3)


def reduced(images: Tensor, share: float) -> Tensor:
    """Return smaller copies: uint8 B×s×s×3 of uint8 B×S×S×3, with s = share × S.

    The resampling is bilinear with antialiasing. The result is rounded to uint8.
    """
    planes = images.permute(0, 3, 1, 2)
    if images.device.type != "cpu":  # PyTorch resamples uint8 on a CPU only, where it is faster than float32
        planes = planes.float()
    smaller = F.interpolate(planes, scale_factor=share, mode="bilinear", antialias=True)
    if smaller.is_floating_point():
        smaller = smaller.round().byte()
    return smaller.permute(0, 2, 3, 1)


def by_policy(images: Tensor, policy: str) -> Tensor:
    """Return images (uint8 B×S×S×3) that were changed at random by a policy of torchvision, each one by itself.

    policy: `trivial` for TrivialAugment (arXiv:2103.10158), `rand` for RandAugment (arXiv:1909.13719), `none`. The
    random numbers are those of PyTorch's global generator, which each epoch seeds.
    """
    if policy == "none":
        return images
    from torchvision.transforms import v2

    changed = {"trivial": v2.TrivialAugmentWide, "rand": v2.RandAugment}[policy]()
    return torch.stack([changed(image) for image in images.permute(0, 3, 1, 2)]).permute(0, 2, 3, 1)


def distort(
    inputs: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    augment: AugmentConfig,
    generator: torch.Generator,
    *,
    scale: float = 1,
) -> Tensor:
    """Return inputs with random crops, turns, colours and blanked parts: float B×3×S×S.

    inputs are normalised with mean and std. Crop (of an area from `crop` to all, and of a shape from 3:4 to 4:3, as in
    arXiv:1409.4842), rotation and zoom are one bilinear resampling that reflects the image at its edges. Brightness is
    a share of the 0..1 range; contrast changes around the mean colour of each image. No value is clipped at black or
    white. Cutout (arXiv:1708.04552) sets a square, and erasing (arXiv:1708.04896) a rectangle, to 0, the mean colour of
    the dataset. The square's centre is anywhere in the image, so a part of the square may lie outside. scale multiplies
    the square's side, for reduced inputs. If all of these are off, the function returns inputs unchanged and draws no
    random number.
    """
    if augment.crop or augment.rotate or augment.zoom:
        inputs = _resampled(inputs, augment, generator)
    if augment.vertical or augment.quarter_turns:
        inputs = _turned(inputs, augment, generator)
    if augment.saturation or augment.hue:
        inputs = _coloured(inputs, mean, std, augment, generator)
    if augment.brightness or augment.contrast:
        shift, change = _symmetric(inputs, 2, generator)
        factor = 1 + augment.contrast * change
        offset = augment.brightness * shift / constant(tuple(std), inputs.device).view(3, 1, 1)
        inputs = inputs * factor + (inputs.mean((2, 3), keepdim=True) * (1 - factor) + offset)
    # masked_fill would lose the channels_last strides.
    if augment.cutout:
        inputs = inputs * ~_boxes(inputs, augment.cutout * scale, generator)
    if augment.erase:
        inputs = inputs * ~_erased(inputs, augment.erase, generator)
    return inputs


def mix(
    inputs: Tensor, labels: Tensor, num_classes: int, augment: AugmentConfig, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Mix each image with its neighbour in the batch. Return the images and their targets (float32 B×num_classes).

    MixUp (arXiv:1710.09412) blends the whole image. CutMix (arXiv:1905.04899) pastes a box of the neighbour. If both
    are on, each batch takes one of them at random. Each image has its own random share. labels: int64, B.
    Batches are shuffled, so the neighbour is a random image.
    """

    def shares(alpha: float) -> Tensor:
        return symmetric_beta(len(inputs), alpha, generator).float().view(-1, 1, 1, 1)

    weights = []
    if augment.mixup:
        weights.append(shares(augment.mixup))
    if augment.cutmix:
        sides = (1 - shares(augment.cutmix)).sqrt() * inputs.shape[-1]
        weights.append((~_boxes(inputs, sides, generator)).float())
    if len(weights) == 2:
        # The choice stays on the device: with an `if`, the host would wait for the random number.
        coin = torch.rand((), generator=generator, device=inputs.device) < 0.5
        weights = [torch.where(coin, weights[0], weights[1])]
    (own,) = weights  # B×1×1×1 or B×1×S×S: the share of each pixel that comes from the image itself
    share = own.mean((1, 2, 3))[:, None]
    targets = F.one_hot(labels, num_classes).float()
    return (
        torch.lerp(inputs.roll(1, 0), inputs, own.to(inputs.dtype)),
        torch.lerp(targets.roll(1, 0), targets, share),
    )


def symmetric_beta(count: int, alpha: float, generator: torch.Generator) -> Tensor:
    """Return random numbers of the distribution Beta(alpha, alpha): float64, count, on the generator's device.

    Each number takes two uniform numbers U and V. Nothing is rejected, so a GPU draws without waiting for the host. If
    T has Student's t distribution with 2·alpha degrees of freedom, the result is (1 + T / sqrt(2·alpha + T²)) / 2.
    Bailey's polar method gives T = sqrt(2·alpha·(U^(-1/alpha) - 1))·cos(π·V). Sources: R. W. Bailey, Mathematics of
    Computation 62, 1994; L. Devroye, Random Variate Generation in One Line of Code, 1996.
    """
    # float64, as for a small alpha many of the numbers are so close to 0 or 1 that float32 would round them.
    u, v = torch.rand((2, count), generator=generator, device=generator.device, dtype=torch.float64)
    # U^(-1/alpha) overflows for a small alpha. The fraction is multiplied by U^(1/alpha) to avoid it.
    power, cosine = u ** (1 / alpha), torch.cos(math.pi * v)
    scaled = cosine * torch.sqrt((1 - power) / (power + (1 - power) * cosine**2))
    return ((1 + scaled) / 2).clamp(0, 1)  # rounding errors leave the range by up to 1e-16


def _resampled(inputs: Tensor, augment: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Crop, rotate and zoom each image at random, in one resampling."""
    angle, change = (draw.flatten() for draw in _symmetric(inputs, 2, generator))
    angle, size = math.radians(augment.rotate) * angle, 1 + augment.zoom * change
    wide = high = torch.ones_like(size)
    x = y = torch.zeros_like(size)
    if augment.crop:
        area, shape, left, top = torch.rand((4, len(inputs)), generator=generator, device=inputs.device)
        side = (augment.crop + (1 - augment.crop) * area).sqrt()
        stretch = (4 / 3) ** (shape - 0.5)  # the square root of a ratio from 3:4 to 4:3
        wide, high = (side * stretch).clamp(max=1), (side / stretch).clamp(max=1)
        x, y = (1 - wide) * (2 * left - 1), (1 - high) * (2 * top - 1)
    # The matrix maps a pixel of the result to its position in the input. Both are in -1..1 around the centre.
    cosine, sine = angle.cos() / size, angle.sin() / size
    rows = torch.stack([wide * cosine, high * sine, x, -wide * sine, high * cosine, y], 1)
    grid = F.affine_grid(rows.view(-1, 2, 3).to(inputs.dtype), list(inputs.shape), align_corners=False)
    found = F.grid_sample(inputs, grid, "bilinear", padding_mode="reflection", align_corners=False)
    return found.contiguous(memory_format=torch.channels_last)


def _turned(inputs: Tensor, augment: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Turn images by quarters, and upside down, as the settings say."""
    for on, turned in (
        (augment.vertical, lambda images: images.flip(2)),
        (augment.quarter_turns, lambda images: images.rot90(1, (2, 3))),
        (augment.quarter_turns, lambda images: images.rot90(2, (2, 3))),
    ):
        if on:
            coin = torch.rand((len(inputs), 1, 1, 1), generator=generator, device=inputs.device) < 0.5
            inputs = torch.where(coin, turned(inputs), inputs)
    return inputs.contiguous(memory_format=torch.channels_last)


# To brightness and two axes of colour (YIQ, the NTSC standard of 1953), in which a turn changes the hue alone.
_YIQ = (0.299, 0.587, 0.114, 0.596, -0.274, -0.322, 0.211, -0.523, 0.312)
_FROM_YIQ = tuple(torch.linalg.inv(torch.tensor(_YIQ, dtype=torch.float64).view(3, 3)).flatten().tolist())


def _coloured(
    inputs: Tensor,
    mean: Sequence[float],
    std: Sequence[float],
    augment: AugmentConfig,
    generator: torch.Generator,
) -> Tensor:
    """Change saturation and hue of each image at random: one matrix for each, applied to its pixels."""
    change, turn = (draw.flatten() for draw in _symmetric(inputs, 2, generator))
    factor, angle = 1 + augment.saturation * change, 2 * math.pi * augment.hue * turn
    to_yiq, from_yiq = (constant(each, inputs.device).view(3, 3) for each in (_YIQ, _FROM_YIQ))
    colour = torch.zeros(len(inputs), 3, 3, device=inputs.device)
    colour[:, 0, 0] = 1
    colour[:, 1, 1] = colour[:, 2, 2] = factor * angle.cos()
    colour[:, 1, 2], colour[:, 2, 1] = -factor * angle.sin(), factor * angle.sin()
    middle, width = (constant(tuple(values), inputs.device) for values in (mean, std))
    of_rgb = from_yiq @ colour @ to_yiq
    matrix = of_rgb * width / width[:, None]  # of normalised pixels
    offset = (of_rgb @ middle - middle) / width
    found = torch.einsum("bij,bjhw->bihw", matrix, inputs.float()) + offset[:, :, None, None]
    return found.to(inputs.dtype).contiguous(memory_format=torch.channels_last)


def _erased(inputs: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Return a rectangle in this share of the images as a mask, bool B×1×S×S: of 2 to 33% of the area."""
    size = inputs.shape[-1]
    coin, area, shape, x, y = torch.rand((5, len(inputs), 1, 1, 1), generator=generator, device=inputs.device)
    side = (0.02 + 0.31 * area).sqrt() * size
    stretch = 0.3 ** (shape - 0.5)  # the square root of a ratio from 0.3 to 1/0.3
    pixels = torch.arange(size, device=inputs.device) + 0.5
    wide, high = side * stretch, side / stretch
    columns = (pixels - wide / 2 - x * (size - wide)).abs() * 2 <= wide
    rows = (pixels - high / 2 - y * (size - high)).abs() * 2 <= high
    return (coin < share) & rows.mT & columns


def _symmetric(inputs: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return random numbers, uniform in -1..1: count × B×1×1×1."""
    draws = torch.rand((count, len(inputs), 1, 1, 1), generator=generator, device=inputs.device)
    return 2 * draws - 1


def _boxes(inputs: Tensor, sides: Tensor | float, generator: torch.Generator) -> Tensor:
    """Return one square for each image as a mask, bool B×1×S×S. The square's centre is a random place in the image.

    sides: the side in pixels, one number or B×1×1×1.
    """
    size = inputs.shape[-1]
    centres = torch.rand((2, len(inputs), 1, 1, 1), generator=generator, device=inputs.device) * size
    pixels = torch.arange(size, device=inputs.device) + 0.5
    near = [(pixels - centre).abs() * 2 <= sides for centre in centres]
    return near[0].mT & near[1]
