from __future__ import annotations

import torch

from raycls.config import OptimConfig
from raycls.models.networks import build
from raycls.training.optim import WHITENING_SHARE, Optimizer, orthogonalize


def test_orthogonalize_evens_out_the_singular_values() -> None:
    torch.manual_seed(0)
    for shape in ((16, 64), (64, 16), (32, 32)):
        matrix = torch.randn(shape) * torch.logspace(-1, 1, shape[1])
        before, after = (torch.linalg.svdvals(m) for m in (matrix, orthogonalize(matrix, steps=8)))
        assert before.max() / before.min() > 5
        assert after.min() > 0.4
        assert after.max() < 1.6


def test_every_trained_weight_moves_and_the_schedule_ends_at_zero() -> None:
    for name in ("muon", "adamw"):
        network = build("fastcnn", num_classes=3, image_size=16, widths=(8, 8))
        optimizer = Optimizer(network, OptimConfig(name=name, lr=0.1), batch_size=4)
        trained = {k: v.detach().clone() for k, v in network.named_parameters() if v.requires_grad}

        def step(progress: float, network=network, optimizer=optimizer) -> None:  # type: ignore[no-untyped-def]
            optimizer.schedule(progress)
            torch.nn.functional.cross_entropy(
                network(torch.rand(4, 3, 16, 16)), torch.tensor([0, 1, 2, 0])
            ).backward()
            optimizer.step()
            network.zero_grad(set_to_none=True)

        step(0.0)
        moved = dict(network.named_parameters())
        assert all(not torch.equal(moved[k], v) for k, v in trained.items())
        step(1.0)
        assert all(group["lr"] == 0 for state in optimizer.state_dict() for group in state["param_groups"])


def test_the_whitening_bias_rests_after_its_share_of_the_steps() -> None:
    network = build("fastcnn", num_classes=3, image_size=16, widths=(8, 8))
    optimizer = Optimizer(network, OptimConfig(), batch_size=4)
    optimizer.schedule(WHITENING_SHARE - 0.01)
    assert network.whiten.bias.requires_grad  # type: ignore[union-attr]
    optimizer.schedule(WHITENING_SHARE)
    assert not network.whiten.bias.requires_grad  # type: ignore[union-attr]


def test_the_state_carries_momentum() -> None:
    network = build("cnn", num_classes=3, image_size=16, widths=(8,))
    optimizer = Optimizer(network, OptimConfig(), batch_size=4)
    network(torch.rand(4, 3, 16, 16)).sum().backward()
    optimizer.step()
    fresh = Optimizer(network, OptimConfig(), batch_size=4)
    assert fresh.state_dict() != optimizer.state_dict()
    fresh.load_state_dict(optimizer.state_dict())
    assert str(fresh.state_dict()) == str(optimizer.state_dict())
