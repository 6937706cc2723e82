"""Every random view on real digits: what it changes in the picture, and what it keeps."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import scipy.stats
import torch
import torch.nn.functional as F
from torch import Tensor

from raycls.config import AugmentConfig
from raycls.data.augment import distort, mix, random_views, reduced, symmetric_beta
from raycls.data.packed import PackedDataset
from raycls.data.tensors import as_tensor, normalize
from raycls.data.versions import open_dataset

MEAN = (0.4, 0.5, 0.6)
OFF = AugmentConfig(translate=0, flip=False)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
EVERY_DISTORTION = AugmentConfig(
    crop=0.9,
    rotate=15,
    zoom=0.2,
    brightness=0.2,
    contrast=0.3,
    saturation=0.3,
    hue=0.1,
    erase=0.3,
    cutout=3,
)


@pytest.fixture(scope="module")
def digits(digits_home: Path) -> PackedDataset:
    return open_dataset("digits")


@pytest.fixture(scope="module")
def images(digits: PackedDataset) -> Tensor:
    return as_tensor(digits.images("train"))[:400].clone()


@pytest.fixture(scope="module")
def labels(digits: PackedDataset) -> Tensor:
    return as_tensor(digits.labels("train"))[:400]


@pytest.fixture
def inputs(images: Tensor, digits: PackedDataset) -> Tensor:
    return normalize(images, digits.info.mean, digits.info.std)


@pytest.fixture
def std(digits: PackedDataset) -> tuple[float, ...]:
    return digits.info.std


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _ramp(count: int, side: int) -> Tensor:
    """float32 images whose value is the distance to the right of the centre. Only a rotation tilts them."""
    row = torch.arange(side) - (side - 1) / 2
    return row.expand(count, 3, side, side).contiguous(memory_format=torch.channels_last)


def test_a_shift_shows_another_window_of_the_same_image(images: Tensor) -> None:
    indices = torch.arange(100)
    augment = AugmentConfig(translate=2)
    views = random_views(images, indices, augment, mirrored=None, generator=_generator())
    assert (views.shape, views.dtype) == ((100, 8, 8, 3), torch.uint8)
    padded = torch.nn.functional.pad(images[:100].permute(0, 3, 1, 2).float(), [2] * 4, mode="reflect")
    shifts = set()
    for view, image in zip(views, padded.permute(0, 2, 3, 1).byte(), strict=True):
        found = {(y, x) for y in range(5) for x in range(5) if torch.equal(view, image[y : y + 8, x : x + 8])}
        assert found
        shifts |= found if len(found) == 1 else set()
    assert {y for y, _ in shifts} == {x for _, x in shifts} == set(range(5))


def test_only_the_chosen_images_are_mirrored(images: Tensor) -> None:
    indices = torch.tensor([3, 7, 11])
    mirrored = torch.tensor([True, False, True])
    views = random_views(images, indices, OFF, mirrored=mirrored, generator=_generator())
    assert torch.equal(views[0], images[3].flip(1))
    assert torch.equal(views[1], images[7])
    assert torch.equal(views[2], images[11].flip(1))


def test_all_off_changes_nothing_and_draws_nothing(
    images: Tensor, inputs: Tensor, std: tuple[float, ...]
) -> None:
    generator = _generator()
    views = random_views(images, torch.arange(400), OFF, mirrored=None, generator=generator)
    assert torch.equal(views, images)
    assert distort(inputs, MEAN, std, OFF, generator) is inputs
    assert torch.equal(generator.get_state(), _generator().get_state())


@pytest.mark.parametrize(
    "augment",
    [EVERY_DISTORTION]
    + [
        AugmentConfig(**{name: getattr(EVERY_DISTORTION, name)})
        for name in ("rotate", "zoom", "brightness", "contrast", "saturation", "hue", "erase", "cutout")
    ],
    ids=["all", "rotate", "zoom", "brightness", "contrast", "saturation", "hue", "erase", "cutout"],
)
def test_a_distortion_keeps_type_and_layout_and_follows_its_seed(
    inputs: Tensor, std: tuple[float, ...], augment: AugmentConfig
) -> None:
    before = inputs.clone()
    first, again, other = (distort(inputs, MEAN, std, augment, _generator(seed)) for seed in (0, 0, 1))
    assert (first.shape, first.dtype) == (inputs.shape, inputs.dtype)
    assert first.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(inputs, before)
    # The picture stays recognisable: every image resembles its own original more than the next one.
    a, b, c = (x.flatten(1) - x.flatten(1).mean(1, keepdim=True) for x in (first, inputs, inputs.roll(1, 0)))
    cosine = torch.nn.functional.cosine_similarity
    assert (cosine(a, b) > cosine(a, c)).float().mean() > 0.95


def test_rotation_turns_by_up_to_its_angle_both_ways(std: tuple[float, ...]) -> None:
    turned = distort(_ramp(2000, 33), MEAN, std, AugmentConfig(rotate=30), _generator())[:, 0]
    right, down = turned[:, 16, 20] - turned[:, 16, 12], turned[:, 20, 16] - turned[:, 12, 16]
    angles = torch.rad2deg(torch.atan2(down, right))
    assert 29 < angles.max() <= 30.01
    assert -30.01 <= angles.min() < -29
    assert angles.mean().abs() < 1.5
    assert torch.allclose(right**2 + down**2, torch.tensor(64.0), atol=0.1)  # no zoom with it


def test_zoom_enlarges_and_shrinks_about_the_centre(std: tuple[float, ...]) -> None:
    zoomed = distort(_ramp(2000, 33), MEAN, std, AugmentConfig(zoom=0.4), _generator())[:, 0]
    sizes = 8 / (zoomed[:, 16, 20] - zoomed[:, 16, 12])
    assert 1.39 < sizes.max() <= 1.401
    assert 0.599 <= sizes.min() < 0.61
    assert zoomed[:, 16, 16].abs().max() < 1e-4
    assert (zoomed[:, 20, 16] - zoomed[:, 12, 16]).abs().max() < 1e-4  # not turned


def test_rotation_and_zoom_reflect_the_image_at_its_edges(std: tuple[float, ...]) -> None:
    flat = torch.ones(100, 3, 16, 16)
    assert torch.allclose(distort(flat, MEAN, std, AugmentConfig(rotate=180, zoom=0.5), _generator()), flat)


def test_brightness_shifts_every_pixel_alike_by_a_share_of_the_range(inputs: Tensor) -> None:
    std = (0.25, 0.5, 1.0)
    shifts = distort(inputs, MEAN, std, AugmentConfig(brightness=0.3), _generator()) - inputs
    shares = shifts.mean((2, 3)) * torch.tensor(std)
    assert shifts.std((2, 3)).max() < 1e-5
    assert torch.allclose(shares[:, 0], shares[:, 2], atol=1e-5)
    assert 0.29 < shares.max() <= 0.3001
    assert -0.3001 <= shares.min() < -0.29


def test_contrast_stretches_about_the_mean_of_each_image(inputs: Tensor, std: tuple[float, ...]) -> None:
    changed = distort(inputs, MEAN, std, AugmentConfig(contrast=0.5), _generator())
    assert torch.allclose(changed.mean((2, 3)), inputs.mean((2, 3)), atol=1e-5)
    factors = changed.std((2, 3)) / inputs.std((2, 3))
    assert 1.49 < factors.max() < 1.5001
    assert 0.4999 < factors.min() < 0.51


def test_cutout_blanks_one_square_wherever_it_falls(std: tuple[float, ...]) -> None:
    blank = (distort(torch.ones(3000, 3, 16, 16), MEAN, std, AugmentConfig(cutout=5), _generator()) == 0)[
        :, 0
    ]
    areas = blank.sum((1, 2))
    assert areas.max() == 25
    assert areas.min() < 12  # partly outside
    assert torch.equal(areas, blank.any(1).sum(1) * blank.any(2).sum(1))  # a rectangle
    assert blank.any(0).all()
    reduced_too = distort(
        torch.ones(3000, 3, 16, 16), MEAN, std, AugmentConfig(cutout=6), _generator(), scale=0.5
    )
    assert (reduced_too == 0)[:, 0].sum((1, 2)).max() == 9


@pytest.mark.parametrize("alphas", [{"mixup": 0.4}, {"cutmix": 1.0}, {"mixup": 0.4, "cutmix": 1.0}])
def test_mixing_keeps_type_and_layout_and_targets_say_the_shares(
    inputs: Tensor, labels: Tensor, alphas: dict[str, float]
) -> None:
    augment = AugmentConfig(**alphas)  # type: ignore[arg-type]
    mixed, targets = mix(inputs, labels, 10, augment, _generator())
    assert (mixed.shape, mixed.dtype) == (inputs.shape, inputs.dtype)
    assert mixed.is_contiguous(memory_format=torch.channels_last)
    assert (targets.shape, targets.dtype) == ((400, 10), torch.float32)
    assert torch.allclose(targets.sum(1), torch.ones(400), atol=1e-5)
    again, _ = mix(inputs, labels, 10, augment, _generator())
    assert torch.equal(mixed, again)
    # If every pixel of image i is the number i, the result shows the neighbour's share of each pixel.
    numbers = torch.arange(400.0).view(-1, 1, 1, 1).expand(400, 3, 8, 8)
    taken, _ = mix(numbers, labels, 10, augment, _generator())
    taken = (numbers - taken).abs()[1:].mean((1, 2, 3))  # the neighbour is one less
    differ = labels[1:] != labels[:-1]
    own = targets[1:].gather(1, labels[1:, None])[:, 0]
    assert torch.allclose(own[differ], 1 - taken[differ], atol=1e-3)
    assert 0.1 < taken.mean() < 0.6


def test_mixup_blends_and_cutmix_pastes_a_box(labels: Tensor) -> None:
    numbers = torch.arange(400.0).view(-1, 1, 1, 1).expand(400, 3, 16, 16)

    def taken(**alphas: float) -> Tensor:
        mixed, _ = mix(numbers, labels, 10, AugmentConfig(**alphas), _generator())  # type: ignore[arg-type]
        return (numbers - mixed)[1:, 0]

    blended, pasted = taken(mixup=1.0), taken(cutmix=1.0)
    assert torch.allclose(blended, blended.mean((1, 2), keepdim=True).expand_as(blended), atol=1e-3)
    assert ((blended > 0.2) & (blended < 0.8)).any()
    assert set(pasted.unique().tolist()) == {0.0, 1.0}
    box = pasted == 1
    assert torch.equal(box.sum((1, 2)), box.any(1).sum(1) * box.any(2).sum(1))


def test_with_both_on_a_batch_takes_one_of_them(labels: Tensor) -> None:
    numbers = torch.arange(400.0).view(-1, 1, 1, 1).expand(400, 3, 16, 16)
    augment = AugmentConfig(mixup=1.0, cutmix=1.0)
    generator = _generator()
    boxes = [
        len((numbers - mix(numbers, labels, 10, augment, generator)[0])[1:].unique()) == 2 for _ in range(20)
    ]
    assert {True, False} == set(boxes)


def test_alpha_decides_how_evenly_two_images_share(inputs: Tensor, labels: Tensor) -> None:
    def even(alpha: float) -> float:
        _, targets = mix(inputs, labels, 10, AugmentConfig(mixup=alpha), _generator())
        return ((targets > 0.3) & (targets < 0.7)).any(1).float().mean().item()

    assert even(0.1) < 0.2
    assert even(8.0) > 0.6


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("alpha", [0.2, 0.5, 1.0, 4.0, 10.0])
def test_the_shares_have_the_beta_distribution(alpha: float, device: str) -> None:
    count = 100_000
    draws = symmetric_beta(count, alpha, torch.Generator(device).manual_seed(0)).cpu()
    assert (draws.shape, draws.dtype) == ((count,), torch.float64)
    assert ((draws >= 0) & (draws <= 1)).all()
    exact = scipy.stats.beta(alpha, alpha)
    variance, excess_kurtosis = 1 / (4 * (2 * alpha + 1)), exact.stats("k")
    # Both estimates must be within four standard errors.
    assert abs(draws.mean().item() - 0.5) < 4 * math.sqrt(variance / count)
    assert abs(draws.var().item() / variance - 1) < 4 * math.sqrt((excess_kurtosis + 2) / count)
    assert scipy.stats.kstest(draws.numpy(), exact.cdf).pvalue > 0.01


@pytest.mark.parametrize("device", DEVICES)
def test_the_shares_follow_their_seed_and_are_finite_for_every_alpha(device: str) -> None:
    def drawn(alpha: float, seed: int) -> Tensor:
        return symmetric_beta(10_000, alpha, torch.Generator(device).manual_seed(seed))

    assert torch.equal(drawn(0.2, 0), drawn(0.2, 0))
    assert not torch.equal(drawn(0.2, 0), drawn(0.2, 1))
    tiny = drawn(1e-4, 0)
    assert ((tiny < 1e-6) | (tiny > 1 - 1e-6)).float().mean() > 0.99
    assert 0 <= tiny.min() < tiny.max() <= 1
    assert 0.45 < tiny.mean() < 0.55


def test_reduced_images_are_the_float_ones_rounded() -> None:
    images = torch.randint(
        0, 256, (8, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )
    small = reduced(images, 0.75)
    assert (small.dtype, small.shape) == (torch.uint8, (8, 24, 24, 3))
    exact = F.interpolate(
        images.permute(0, 3, 1, 2).float(), scale_factor=0.75, mode="bilinear", antialias=True
    )
    assert (small.permute(0, 3, 1, 2).float() - exact).abs().max() <= 1
    flat = torch.full((1, 64, 64, 3), 200, dtype=torch.uint8)
    assert (reduced(flat, 0.75) == 200).all()


def test_a_crop_shows_a_part_enlarged_and_no_more(std: tuple[float, ...]) -> None:
    ramp = _ramp(2000, 33)
    seen = distort(ramp, MEAN, std, AugmentConfig(crop=0.25), _generator())[:, 0]
    slopes = seen[:, 16, 17] - seen[:, 16, 16]  # the width of the part, as a share
    assert slopes.min() > 0.5 * (3 / 4) ** 0.5 - 1e-3
    assert slopes.max() < 1 + 1e-3
    assert slopes.std() > 0.05
    assert seen.mean((1, 2)).std() > 1  # and not always the middle
    # The part lies within the image: outside it, a reflection would fall again.
    assert (seen[:, :, 1:] > seen[:, :, :-1] - 1e-4).all()


def test_turns_move_pixels_and_change_none(std: tuple[float, ...]) -> None:
    image = torch.randn(1, 3, 8, 8)
    inputs = image.expand(400, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    upside = distort(inputs, MEAN, std, AugmentConfig(vertical=True), _generator())
    share = torch.tensor([torch.equal(each, image[0].flip(1)) for each in upside]).float().mean()
    assert 0.4 < share < 0.6
    turned = distort(inputs, MEAN, std, AugmentConfig(quarter_turns=True), _generator())
    for times in range(4):
        wanted = image[0].rot90(times, (1, 2))
        assert 0.15 < torch.tensor([torch.equal(each, wanted) for each in turned]).float().mean() < 0.35


def test_colours_change_and_grey_stays_grey(std: tuple[float, ...]) -> None:
    def seen(rgb: tuple[float, float, float], augment: AugmentConfig) -> Tensor:
        """The colours (N×3, of 0..1) that 500 images of this colour get."""
        mean, width = torch.tensor(MEAN), torch.tensor(std)
        pixel = ((torch.tensor(rgb) - mean) / width).view(1, 3, 1, 1).expand(500, 3, 4, 4)
        return distort(pixel, MEAN, std, augment, _generator())[:, :, 0, 0] * width + mean

    both = AugmentConfig(hue=0.5, saturation=0.5)
    grey = torch.tensor([0.5, 0.5, 0.5])
    assert torch.allclose(seen((0.5, 0.5, 0.5), both), grey.expand(500, 3), atol=2e-3)
    red = (0.8, 0.2, 0.2)
    luma = torch.tensor([0.299, 0.587, 0.114])
    paler = seen(red, AugmentConfig(saturation=0.5))
    assert torch.allclose(paler @ luma, (torch.tensor(red) @ luma).expand(500), atol=2e-3)
    ratio = (paler[:, 0] - paler[:, 1]) / 0.6
    assert 0.5 <= ratio.min() < 0.6
    assert 1.4 < ratio.max() <= 1.5 + 1e-3
    turned = seen(red, AugmentConfig(hue=0.5))
    assert (
        turned.argmax(1).bincount(minlength=3) > 50
    ).all()  # each of the three colours is the strongest in some


def test_erasing_blanks_a_rectangle_in_a_share_of_the_images(std: tuple[float, ...]) -> None:
    blank = (
        distort(torch.ones(2000, 3, 32, 32), MEAN, std, AugmentConfig(erase=0.25), _generator())[:, 0] == 0
    )
    areas = blank.float().mean((1, 2))
    assert (areas > 0).float().mean() == pytest.approx(0.25, abs=0.03)
    assert areas[areas > 0].max() < 0.4
    some = blank[areas > 0][0]
    rows, columns = some.any(1), some.any(0)
    assert torch.equal(some, rows[:, None] & columns)
