"""The loss, where classes are weighted and workers see parts of a batch."""

from __future__ import annotations

import pytest
import torch

from raycls.training.loss import cross_entropy


@pytest.mark.parametrize("mixed", [False, True])
def test_weighted_losses_of_two_workers_are_those_of_one(mixed: bool) -> None:
    """A worker whose part of a batch had no rare class gave the others more weight than the other worker did."""
    weights = torch.tensor([0.5] * 9 + [5.5])
    logits = torch.randn(20, 10, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0] * 10 + [9] * 10)  # the rare class is in the second worker's part alone
    if mixed:
        targets = torch.nn.functional.one_hot(targets, 10) * 0.75 + 0.025
    whole = cross_entropy(logits, targets, 0.1, weights)
    halves = [cross_entropy(logits[part], targets[part], 0.1, weights) for part in (slice(10), slice(10, 20))]
    assert torch.stack(halves).mean().item() == pytest.approx(whole.item(), rel=1e-6)


def test_weights_of_one_change_nothing() -> None:
    logits, targets = torch.randn(4, 3), torch.tensor([0, 1, 2, 2])
    plain = cross_entropy(logits, targets, 0.2)
    assert cross_entropy(logits, targets, 0.2, torch.ones(3)).item() == pytest.approx(plain.item(), rel=1e-6)
