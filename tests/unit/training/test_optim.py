from __future__ import annotations

import pytest
import torch

from raycls.config import OptimConfig
from raycls.models.networks import build
from raycls.training.optim import WHITENING_SHARE, Optimizer, orthogonalize, rate_factor


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonalize_evens_out_the_singular_values(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    for shape in ((16, 64), (64, 16), (32, 32)):
        matrix = torch.randn(shape) * torch.logspace(-1, 1, shape[1])
        before, after = (torch.linalg.svdvals(m) for m in (matrix, orthogonalize(matrix, 8, dtype)))
        assert before.max() / before.min() > 5
        assert after.dtype == torch.float32
        assert after.min() > 0.4
        assert after.max() < 1.6


def test_every_trained_weight_moves_and_the_schedule_ends_at_zero() -> None:
    for name in ("muon", "sgd", "adam", "adamw"):
        network = build("fastcnn", num_classes=3, image_size=16, widths=(8, 8))
        optimizer = Optimizer(network, OptimConfig.model_validate({"name": name, "lr": 0.1}), batch_size=4)
        trained = {k: v.detach().clone() for k, v in network.named_parameters() if v.requires_grad}

        def step(progress: float, network=network, optimizer=optimizer) -> None:  # type: ignore[no-untyped-def]
            optimizer.schedule(progress)
            torch.nn.functional.cross_entropy(
                network(torch.rand(4, 3, 16, 16)), torch.tensor([0, 1, 2, 0])
            ).backward()
            optimizer.step()

        step(0.0)
        moved = dict(network.named_parameters())
        assert all(not torch.equal(moved[k], v) for k, v in trained.items())
        step(1.0)
        assert all(
            group["lr"] == 0
            for state in optimizer.state_dict()["optimizer"]
            for group in state["param_groups"]
        )


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


def test_frozen_layers_rest_and_the_others_go_on() -> None:
    network = build("fastcnn", num_classes=3, image_size=16, widths=(8, 8))
    optimizer = Optimizer(network, OptimConfig(), batch_size=4)
    images, labels = torch.rand(4, 3, 16, 16), torch.tensor([0, 1, 2, 0])

    def step() -> dict[str, torch.Tensor]:
        before = {name: p.detach().clone() for name, p in network.named_parameters()}
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()
        return {name: p - before[name] for name, p in network.named_parameters()}

    def moved() -> set[str]:
        return {name for name, change in step().items() if change.abs().sum() > 0}

    first = moved()
    network.freeze_early()  # type: ignore[operator]
    assert moved() == {name for name in first if not name.startswith(("whiten", "groups.0"))} < first


@pytest.mark.parametrize("name", ["muon", "sgd", "adam", "adamw"])
def test_the_head_can_learn_faster_than_the_body(name: str) -> None:
    def rates(factor: float) -> dict[str, float]:
        network = build("fastcnn", num_classes=3, image_size=16, widths=(8, 8))
        config = OptimConfig.model_validate({"name": name, "lr": 0.01, "head_lr_factor": factor})
        optimizer = Optimizer(network, config, batch_size=4)
        optimizer.schedule(0.0)
        groups = [group for opt in optimizer._all for group in opt.param_groups]
        of = {id(p): group["lr"] for group in groups for p in group["params"]}
        return {name: of[id(p)] for name, p in network.named_parameters() if p.requires_grad}

    usual, faster = rates(1), rates(10)
    assert usual.keys() == faster.keys()
    for parameter, rate in usual.items():
        factor = 10 if parameter.startswith("head.") else 1
        assert faster[parameter] == pytest.approx(factor * rate)


def test_clipping_bounds_the_whole_gradient() -> None:
    network = build("mlp", num_classes=3, image_size=16, widths=(8,))
    lengths = {}
    for clip in (0.0, 1e-3):
        config = OptimConfig(name="sgd", lr=1.0, weight_decay=0, clip_norm=clip)
        optimizer = Optimizer(network, config, batch_size=4)
        before = torch.cat([p.detach().flatten() for p in network.parameters()])
        torch.nn.functional.cross_entropy(
            network(torch.rand(4, 3, 16, 16)), torch.tensor([0, 1, 2, 0])
        ).backward()
        optimizer.schedule(0.0)
        optimizer.step()
        lengths[clip] = (
            (torch.cat([p.detach().flatten() for p in network.parameters()]) - before).norm().item()
        )
    # Nesterov's first step is (1 + momentum) times the gradient.
    assert lengths[1e-3] == pytest.approx(1.9e-3, rel=0.01)
    assert lengths[0.0] > 1e-2


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_rates_rise_in_the_warm_up_and_fall_to_zero(schedule: str) -> None:
    config = OptimConfig.model_validate({"schedule": schedule, "warmup": 0.2})
    factors = [rate_factor(config, i / 100) for i in range(101)]
    assert factors[0] == 0
    assert max(factors) == factors[20] == 1
    assert factors[:21] == sorted(factors[:21])
    assert factors[20:] == sorted(factors[20:], reverse=True)
    assert factors[100] == pytest.approx(0)
    assert factors[60] == pytest.approx(0.5)
    assert (factors[30] > 0.9) == (schedule == "cosine")  # flat at the top, unlike the line


def test_layers_nearer_to_the_image_learn_more_slowly() -> None:
    network = build("resnet18", num_classes=3, image_size=64, dropout=0.0)
    config = OptimConfig(name="adamw", lr=0.1, layer_decay=0.5, head_lr_factor=10, weight_decay=0.01)
    (optimizer,) = Optimizer(network, config, batch_size=4)._all
    rates = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(network.parameters()))
    assert rates[id(network.head.weight)] == pytest.approx(1.0)
    assert rates[id(network.body.layer4[1].conv2.weight)] == pytest.approx(0.05)
    assert rates[id(network.body.layer1[0].conv1.weight)] == pytest.approx(0.1 * 0.5**4)
    assert rates[id(network.body.conv1.weight)] == pytest.approx(0.1 * 0.5**6)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, 0.01}


@pytest.mark.parametrize(
    "name", ["efficientnet_b0", "mobilenet_v3_small", "resnet18", "fastcnn", "cnn", "mlp"]
)
def test_every_parameter_of_a_body_is_in_one_stage(name: str) -> None:
    network = build(name, num_classes=3, image_size=32, dropout=0.0)
    head = {id(p) for p in network.head.parameters()}
    staged = [id(p) for stage in network.stages() for p in stage]
    assert sorted(staged) == sorted(id(p) for p in network.parameters() if id(p) not in head)
