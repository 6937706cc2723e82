"""The plain loop, without Ray, on real digits."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from raycls.config import Config, override
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_dataset
from raycls.engines.predictor import Predictor
from raycls.errors import ConfigError, TrainingError
from raycls.models import checkpoint
from raycls.models.card import load_card
from raycls.models.networks import CNN, FastCNN
from raycls.training.evaluation import evaluate
from raycls.training.loop import Snapshot, check, fit, start
from raycls.training.loss import cross_entropy
from raycls.training.optim import Optimizer
from raycls.training.presets import preset
from raycls.training.sampling import EpochOrder, Split
from raycls.training.setup import whitening_sample


@pytest.fixture
def digits(digits_home: Path) -> PackedDataset:
    return open_dataset("digits")


@pytest.fixture
def smoke(digits: PackedDataset) -> Config:
    return override(preset("smoke", digits.info), ["epochs=4", "dropout=0.1", "precision=fp32"])


def _run(
    config: Config, dataset: PackedDataset, **options: object
) -> tuple[list[dict[str, float]], torch.nn.Module]:
    history: list[dict[str, float]] = []
    network = fit(config, dataset, on_epoch=lambda metrics, snapshot: history.append(metrics), **options)  # type: ignore[arg-type]
    return history, network


def _weights(network: torch.nn.Module) -> torch.Tensor:
    values = (tensor for tensor in network.state_dict().values() if tensor.is_floating_point())
    return torch.cat([tensor.detach().float().flatten() for tensor in values])


@pytest.mark.parametrize("network", ["mlp", "cnn", "fastcnn"])
def test_every_network_learns_digits(digits: PackedDataset, network: str) -> None:
    config = override(preset("fast", digits.info, network), ["epochs=8", "widths=[32,32]"])
    history, _ = _run(config, digits)
    assert history[-1]["val_accuracy"] > 0.85
    assert history[-1]["train_loss"] < history[0]["train_loss"]
    assert [metrics["epoch"] for metrics in history] == list(range(1, 9))
    assert all(metrics["images_per_s"] > 0 for metrics in history)


def test_a_seed_reproduces_a_run_bit_for_bit(digits: PackedDataset, smoke: Config) -> None:
    first, again = (_weights(_run(smoke, digits)[1]) for _ in range(2))
    other = _weights(_run(override(smoke, ["seed=1"]), digits)[1])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    "settings",
    [
        [],
        ["ema=0.9", "optim.name=adamw", "lr=0.01", "warmup=0.3", "balance=sampling"],
        ["freeze_after=0.6", "cutout=3", "rotate=10", "mixup=0.2", "clip_norm=1"],
    ],
)
def test_a_resumed_run_ends_where_the_undisturbed_one_does(
    digits: PackedDataset, smoke: Config, tmp_path: Path, settings: list[str]
) -> None:
    smoke = override(smoke, settings)
    history = []

    def keep(metrics: dict[str, float], snapshot) -> None:  # type: ignore[no-untyped-def]
        history.append(metrics)
        if metrics["epoch"] == 2:
            snapshot.save(tmp_path)

    undisturbed = fit(smoke, digits, on_epoch=keep)
    resumed_history, resumed = _run(smoke, digits, resume=tmp_path)
    assert [metrics["epoch"] for metrics in resumed_history] == [3, 4]
    assert torch.equal(_weights(undisturbed), _weights(resumed))
    assert resumed_history[-1]["val_loss"] == history[-1]["val_loss"]
    assert resumed_history[-1]["train_seconds"] > history[1]["train_seconds"]  # what went before counts


def test_a_snapshot_is_a_whole_checkpoint(digits: PackedDataset, smoke: Config, tmp_path: Path) -> None:
    network = fit(smoke, digits, on_epoch=lambda metrics, snapshot: snapshot.save(tmp_path))
    loaded, card = checkpoint.load(tmp_path)
    assert torch.equal(_weights(loaded), _weights(network))
    assert card.dataset_fingerprint == digits.info.fingerprint
    assert card.metrics["val_accuracy"] > 0
    assert Config.model_validate(card.config) == smoke


TWO_WORKERS = """
import json, os, sys, torch, torch.distributed as dist, torch.multiprocessing as mp
from raycls.config import Config
from raycls.data.versions import open_dataset
from raycls.training.loop import Workers, fit

def work(rank, store, configs, out):
    torch.set_num_threads(1)
    shared = dist.FileStore(store, 2)
    dist.init_process_group("gloo", store=shared, rank=rank, world_size=2)
    for name, config in json.loads(configs).items():
        network = fit(Config.model_validate(config), open_dataset("digits"),
                      on_epoch=lambda metrics, snapshot: None, workers=Workers(rank, 2))
        torch.save(network.state_dict(), f"{out}/{name}.{rank}")
    shared.set(f"done {rank}", "")  # not by a barrier: who leaves it first breaks the connection of who still reads
    shared.wait(["done 0", "done 1"])
    os._exit(0)  # gloo's threads outlive the group here; one that lets go of a tensor while Python ends aborts

if __name__ == "__main__":
    mp.start_processes(work, args=tuple(sys.argv[1:]), nprocs=2, start_method="fork")
"""


def test_two_workers_take_the_steps_of_one_and_keep_one_averaged_network(
    digits: PackedDataset, tmp_path: Path
) -> None:
    configs = {
        # Without dropout and batch norm, whose randomness and statistics are each worker's own.
        "plain": override(
            preset("smoke", digits.info, "mlp"),
            ["epochs=2", "batch_size=64", "translate=0", "precision=fp32", "widths=[16]"],
        ),
        # With batch norm's statistics too, which each worker takes of its own images.
        "averaged": override(
            preset("smoke", digits.info), ["epochs=1", "batch_size=64", "ema=0.5", "precision=fp32"]
        ),
    }
    script = tmp_path / "two_workers.py"
    script.write_text(TWO_WORKERS)
    documents = json.dumps({name: config.model_dump(mode="json") for name, config in configs.items()})
    subprocess.run([sys.executable, script, tmp_path / "store", documents, tmp_path], check=True, timeout=120)
    trained = {
        name: [torch.load(tmp_path / f"{name}.{rank}", weights_only=True) for rank in (0, 1)]
        for name in configs
    }
    for first, second in trained.values():
        for name, tensor in first.items():
            assert torch.equal(tensor, second[name]), name
    alone = _run(configs["plain"], digits)[1].state_dict()
    for name, expected in alone.items():
        assert torch.allclose(trained["plain"][0][name], expected, atol=1e-4)


def test_a_loss_that_is_not_finite_stops_with_the_way_out(digits: PackedDataset, smoke: Config) -> None:
    broken = override(smoke, ["lr=10", "optim.name=adamw", "epochs=200", "weight_decay=1"])
    with pytest.raises(TrainingError, match=r"lower the learning rate \(optim.lr=10\)"):
        _run(broken, digits)


def test_weights_that_the_last_step_spoilt_are_not_kept(
    digits: PackedDataset, smoke: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Optimizer.step

    def spoil(optimizer: Optimizer) -> None:
        step(optimizer)
        next(p for p in optimizer._trained if p.ndim > 1).data.fill_(torch.nan)

    monkeypatch.setattr(Optimizer, "step", spoil)
    with pytest.raises(TrainingError, match="validation loss became nan after epoch 1"):
        _run(
            override(smoke, ["batch_size=1000"]), digits
        )  # one step an epoch, whose own loss is still finite


def test_what_the_images_cannot_give_is_refused(digits: PackedDataset, smoke: Config) -> None:
    with pytest.raises(ConfigError, match="1260 training images"):
        check(override(smoke, ["batch_size=2000"]), digits)
    with pytest.raises(ConfigError, match="126 training images"):
        check(override(smoke, ["batch_size=500", "train_fraction=0.1"]), digits)
    for setting in ("translate=8", "cutout=8"):
        with pytest.raises(ConfigError, match=f"augment.{setting} leaves nothing of images of 8 pixels"):
            check(override(smoke, [setting]), digits)


def test_validation_is_left_alone_by_the_training_fraction(digits: PackedDataset, smoke: Config) -> None:
    steps = []
    config = override(smoke, ["train_fraction=0.5", "epochs=1", "batch_size=50"])
    fit(config, digits, on_epoch=lambda m, s: None, on_step=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (12, 12)  # 630 of the 1,260 images, in whole batches


def test_the_first_epochs_may_see_smaller_images_and_are_validated_on_them(digits: PackedDataset) -> None:
    sides: list[int] = []
    validated: list[int] = []

    def look(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, CNN):
            (sides if module.training else validated).append(inputs[0].shape[-1])

    config = override(preset("smoke", digits.info, "cnn"), ["epochs=4", "reduced_share=0.5"])
    hook = torch.nn.modules.module.register_module_forward_pre_hook(look)
    try:
        _run(config, digits)
    finally:
        hook.remove()
    steps = len(sides) // 4
    assert sides == [5] * 2 * steps + [8] * 2 * steps
    each = len(validated) // 4
    assert validated == [5] * 2 * each + [8] * 2 * each


def test_averaged_weights_are_the_ones_that_are_kept(digits: PackedDataset, smoke: Config) -> None:
    last, averaged = (_run(override(smoke, [f"ema={decay}"]), digits)[1] for decay in (0, 0.9))
    assert not torch.equal(_weights(last), _weights(averaged))
    _, barely = _run(override(smoke, ["ema=0.000001"]), digits)
    assert torch.allclose(_weights(last), _weights(barely), atol=1e-4)


def test_patience_ends_a_run_that_no_longer_improves(digits: PackedDataset, smoke: Config) -> None:
    config = override(smoke, ["epochs=60", "patience=2", "schedule=cosine"])
    history, _ = _run(config, digits)
    assert len(history) < 60
    accuracies = [metrics["val_accuracy"] for metrics in history]
    assert max(accuracies) == accuracies[-3] > max(accuracies[:-3])


@pytest.mark.parametrize(
    ("epochs", "share", "wanted"), [(1, 1.0, [1]), (3, 1.0, [0, 0, 1]), (4, 0.5, [0, 0, 1, 1])]
)
def test_the_last_epoch_sees_whole_images(
    digits: PackedDataset, epochs: int, share: float, wanted: list[int]
) -> None:
    config = override(preset("smoke", digits.info, "cnn"), [f"epochs={epochs}", f"reduced_share={share}"])
    found: list[bool] = []
    fit(config, digits, on_epoch=lambda metrics, snapshot: found.append(metrics["image_share"] == 1))
    assert found == [bool(each) for each in wanted]


def test_at_first_the_head_alone_learns(digits: PackedDataset, smoke: Config) -> None:
    bodies = []

    def keep(metrics: dict[str, float], snapshot) -> None:  # type: ignore[no-untyped-def]
        bodies.append(snapshot._kept.groups[0].conv1.weight.detach().clone())

    fit(override(smoke, ["frozen_epochs=2"]), digits, on_epoch=keep)
    assert torch.equal(bodies[0], bodies[1])
    assert not torch.equal(bodies[1], bodies[2])


def test_a_checkpoint_of_another_dataset_is_a_head_start(
    digits: PackedDataset, smoke: Config, tmp_path: Path
) -> None:
    longer = override(smoke, ["epochs=12"])
    fit(longer, digits, on_epoch=lambda metrics, snapshot: snapshot.save(tmp_path))
    short = override(smoke, ["epochs=1", "seed=5"])
    started, _ = _run(short, digits, init=tmp_path)
    fresh, _ = _run(short, digits)
    assert started[0]["val_accuracy"] > fresh[0]["val_accuracy"] + 0.1


def test_fine_tuning_keeps_the_parents_normalisation_and_whitening(
    digits: PackedDataset, smoke: Config, tmp_path: Path
) -> None:
    parent, child = tmp_path / "parent", tmp_path / "child"
    fit(smoke, digits, on_epoch=lambda metrics, snapshot: snapshot.save(parent))
    card = load_card(parent).model_copy(update={"mean": (0.3, 0.3, 0.3), "std": (0.4, 0.4, 0.4)})
    checkpoint.save(parent, checkpoint.load(parent)[0], card)
    short = override(smoke, ["epochs=2", "lr=0.024"])

    def keep(metrics: dict[str, float], snapshot: Snapshot) -> None:
        if metrics["epoch"] == 1:
            snapshot.save(child)

    tuned = fit(short, digits, init=parent, on_epoch=keep)
    own = load_card(child)
    assert (own.mean, own.std) == (card.mean, card.std) != (digits.info.mean, digits.info.std)
    assert torch.equal(tuned.whiten.weight, checkpoint.load(parent)[0].whiten.weight)  # type: ignore[union-attr]
    # Also where the run is resumed, which does not know the parent.
    resumed = start(short, digits, resume=child)
    assert (resumed.card.mean, resumed.card.std) == (card.mean, card.std)
    for _, snapshot in resumed.epochs():
        assert snapshot.card.mean == card.mean
    assert torch.equal(_weights(resumed.kept), _weights(tuned))


@pytest.mark.parametrize("balance", ["weights", "sampling"])
def test_balance_makes_a_rare_class_count(balance: str, digits: PackedDataset, smoke: Config) -> None:
    train = Split(digits, "train", torch.device("cpu"))
    train.labels = (train.labels == 1).long()  # about one image in ten
    config = override(smoke, [f"balance={balance}"])
    if balance == "weights":
        weights, counts = train.class_weights(2), torch.bincount(train.labels)
        assert weights[1] / weights[0] == pytest.approx((counts[0] / counts[1]).item())
        rare = torch.tensor([0.1, 3.0])
        logits = torch.zeros(4, 2, requires_grad=True)
        labels = torch.tensor([0, 0, 0, 1])
        for targets in (labels, torch.nn.functional.one_hot(labels, 2).float()):
            for _ in range(300):
                (slope,) = torch.autograd.grad(
                    cross_entropy(logits, targets, config.optim.label_smoothing, rare), logits
                )
                logits.data -= slope
            assert torch.equal(logits.argmax(1), labels)  # smoothed targets do not favour the rare class
        fresh = torch.zeros(4, 2, requires_grad=True)
        (slope,) = torch.autograd.grad(
            cross_entropy(fresh, labels, config.optim.label_smoothing, rare), fresh
        )
        assert slope[3].norm() / slope[0].norm() == pytest.approx(30)
    else:
        drawn = torch.cat(list(EpochOrder(config, train).batches(0)))
        assert train.labels[drawn].float().mean() == pytest.approx(0.5, abs=0.06)
        assert drawn.unique().numel() < len(drawn)


def test_the_epoch_is_chosen_by_the_classes_where_they_are_balanced(
    digits: PackedDataset, smoke: Config
) -> None:
    snapshots: list[tuple[dict[str, float], float]] = []

    def compare(metrics: dict[str, float], snapshot: Snapshot) -> None:
        with tempfile.TemporaryDirectory() as folder:
            snapshot.save(Path(folder))
            evaluation = evaluate(Predictor.load(Path(folder), engine="reference"), digits, "val")
        snapshots.append((metrics, evaluation.metrics("val")["val_macro_accuracy"]))

    fit(smoke, digits, on_epoch=compare)
    for metrics, expected in snapshots:
        assert metrics["val_macro_accuracy"] == pytest.approx(expected, abs=1e-6)
    assert smoke.training.chosen_by == "val_accuracy"
    assert override(smoke, ["balance=sampling"]).training.chosen_by == "val_macro_accuracy"

    training = start(override(smoke, ["balance=weights", "patience=2", "epochs=9"]), digits)
    training.history = [
        {"epoch": 1, "val_accuracy": 0.95, "val_macro_accuracy": 0.5},
        {"epoch": 2, "val_accuracy": 0.90, "val_macro_accuracy": 0.6},
        {"epoch": 3, "val_accuracy": 0.92, "val_macro_accuracy": 0.5},
    ]
    assert not training.finished
    training.history.append({"epoch": 4, "val_accuracy": 0.97, "val_macro_accuracy": 0.5})
    assert training.finished


def test_a_lower_loss_is_the_better_epoch(digits: PackedDataset, smoke: Config) -> None:
    config = override(smoke, ["metric=log_loss", "patience=1", "epochs=9"])
    assert config.training.chosen_by == "val_loss"
    training = start(config, digits)
    training.history = [{"epoch": 1, "val_loss": 0.9}, {"epoch": 2, "val_loss": 0.5}]
    assert not training.finished
    training.history.append({"epoch": 3, "val_loss": 0.7})
    assert training.finished


def test_the_larger_part_of_a_mixed_image_counts(digits: PackedDataset) -> None:
    config = override(preset("fast", digits.info), ["epochs=8", "widths=[32,32]", "mixup=0.2"])
    assert _run(config, digits)[0][-1]["train_accuracy"] > 0.75


@pytest.mark.parametrize("side", [8, 32, 64, 127, 128, 191, 192, 224, 512, 1024])
def test_whitening_takes_a_bounded_memory(side: int) -> None:
    kernel = FastCNN(num_classes=2, image_size=side, widths=(4, 4)).whiten.kernel_size[0]
    patches = ((side - kernel) // max(kernel // 2, 1) + 1) ** 2
    assert whitening_sample(side) * patches * 3 * kernel**2 * 4 < 1.1 * 2**30


def test_more_workers_than_images_are_refused(digits: PackedDataset, smoke: Config) -> None:
    with pytest.raises(ConfigError, match=r"batch_size=16 gives 9 workers .* --workers 8"):
        check(override(smoke, ["batch_size=16"]), digits, workers=9)


def test_a_network_for_one_size_refuses_smaller_images(digits: PackedDataset) -> None:
    config = override(preset("smoke", digits.info, "mlp"), ["reduced_share=0.5"])
    with pytest.raises(ConfigError, match="reduced_share=0"):
        check(config, digits)
