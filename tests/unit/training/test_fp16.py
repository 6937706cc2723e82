"""16 bits without the range of 32: the loss is scaled, the scale is kept, and CPUs refuse it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from raycls.config import OptimConfig, override
from raycls.data.packed import PackedDataset
from raycls.errors import ConfigError
from raycls.models.forward import compute_dtype
from raycls.models.networks import build, freeze_body
from raycls.training import loop, setup
from raycls.training.optim import Optimizer
from raycls.training.presets import preset


def _after_steps(dtype: torch.dtype, config: OptimConfig, *, frozen: bool = False) -> list[torch.Tensor]:
    torch.manual_seed(0)
    network = build("fastcnn", num_classes=2, image_size=8, widths=(8, 8))
    optimizer = Optimizer(network, config, batch_size=4, dtype=dtype)
    freeze_body(network, frozen)
    for _ in range(3):
        optimizer.schedule(0.1)
        optimizer.backward(network(torch.randn(4, 3, 8, 8)).square().sum())
        optimizer.step()
    return [parameter.detach().clone() for parameter in network.parameters()]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("settings", [{"name": "adamw", "lr": 0.01}, {"name": "adamw", "clip_norm": 0.1}])
def test_the_scale_of_the_loss_does_not_change_a_step(settings: dict[str, object], frozen: bool) -> None:
    """A power of two changes no bit of a gradient in float32."""
    config = OptimConfig.model_validate(settings)
    plain, scaled = (_after_steps(dtype, config, frozen=frozen) for dtype in (torch.float32, torch.float16))
    assert all(torch.equal(a, b) for a, b in zip(plain, scaled, strict=True))


def test_frozen_filters_do_not_stop_muons_steps() -> None:
    first = _after_steps(torch.float16, OptimConfig(), frozen=True)
    assert all(weights.isfinite().all() for weights in first)


def test_a_gradient_that_is_too_large_skips_the_step_and_lowers_the_scale() -> None:
    network = build("fastcnn", num_classes=2, image_size=8, widths=(8, 8))
    optimizer = Optimizer(network, OptimConfig(), batch_size=4, dtype=torch.float16)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    scale = optimizer.scaler.get_scale()
    optimizer.schedule(0.1)
    optimizer.backward(network(torch.randn(4, 3, 8, 8)).sum() * torch.inf)
    optimizer.step()
    assert optimizer.scaler.get_scale() == scale / 2
    for parameter, kept in zip(network.parameters(), before, strict=True):
        assert torch.equal(parameter, kept)
        assert parameter.grad is None

    fresh = Optimizer(network, OptimConfig(), batch_size=4, dtype=torch.float16)
    fresh.load_state_dict(optimizer.state_dict())
    assert fresh.scaler.get_scale() == scale / 2
    # Also in another precision, and from the state of one.
    other = Optimizer(network, OptimConfig(), batch_size=4)
    other.load_state_dict(optimizer.state_dict())
    fresh.load_state_dict(other.state_dict())
    assert fresh.scaler.get_scale() == scale / 2


def test_a_resumed_run_goes_on_with_its_scale(
    digits: PackedDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch computes in float16 on a CPU too, slowly: raycls refuses it, and this test does not."""
    monkeypatch.setattr(loop, "compute_dtype", lambda precision, device: torch.float16)
    config = override(preset("smoke", digits.info), ["epochs=3"])

    def keep(metrics: dict[str, float], snapshot: loop.Snapshot) -> None:
        if metrics["epoch"] == 2:
            snapshot.save(tmp_path)

    training = loop.start(config, digits)
    assert isinstance(training, loop.Training)
    training.optimizer.scaler.load_state_dict(training.optimizer.scaler.state_dict() | {"scale": 2.0**40})
    for metrics, snapshot in training.epochs():
        keep(metrics, snapshot)
    scale = training.optimizer.scaler.get_scale()
    assert 1 <= scale < 2.0**40  # which no gradient in 16 bits survives
    resumed = loop.start(config, digits, resume=tmp_path)
    assert isinstance(resumed, loop.Training)
    assert resumed.optimizer.scaler.get_scale() < 2.0**40
    assert resumed.optimizer.scaler.get_scale() != 2.0**16  # of a new one
    for _ in resumed.epochs():
        pass
    assert resumed.optimizer.scaler.state_dict() == training.optimizer.scaler.state_dict()
    for name, weights in training.kept.state_dict().items():
        assert torch.equal(weights, resumed.kept.state_dict()[name]), name


def test_cpus_refuse_fp16_before_and_after_a_run_begins(digits: PackedDataset) -> None:
    config = override(preset("smoke", digits.info), ["precision=fp16"])
    with pytest.raises(ConfigError, match=r"training.precision=fp16 is for GPUs.*take bf16 or fp32"):
        compute_dtype("fp16", torch.device("cpu"))
    with pytest.raises(ConfigError, match="fp16 is for GPUs"):
        setup.check_precision(config, {"num_workers": 1, "resources_per_worker": {"CPU": 1}})
    setup.check_precision(config, {"num_workers": 1, "use_gpu": True})
    with pytest.raises(ConfigError, match="fp16 is for GPUs"):
        loop.fit(config, digits, on_epoch=lambda metrics, snapshot: None)
