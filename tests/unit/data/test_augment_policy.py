"""Random changes of whole images by a policy of torchvision."""

from __future__ import annotations

import pytest
import torch

from raycls.data.augment import by_policy

PICTURE = torch.arange(32 * 32 * 3).view(32, 32, 3).remainder(251).byte()


@pytest.mark.parametrize("policy", ["trivial", "rand"])
def test_each_image_is_changed_by_itself_and_the_seed_decides_how(policy: str) -> None:
    images = PICTURE.expand(40, 32, 32, 3)

    def changed(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return by_policy(images, policy)

    first = changed(0)
    assert (first.dtype, first.shape) == (torch.uint8, images.shape)
    assert len({each.contiguous().numpy().tobytes() for each in first}) > 20
    assert torch.equal(changed(0), first)
    assert not torch.equal(changed(1), first)
    assert (images == PICTURE).all()  # they themselves are as they were


def test_without_a_policy_nothing_is_changed_or_drawn() -> None:
    images = PICTURE[None]
    torch.manual_seed(0)
    before = torch.get_rng_state()
    assert by_policy(images, "none") is images
    assert torch.equal(torch.get_rng_state(), before)
