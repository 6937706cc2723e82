"""What training and evaluation promise on a GPU. `make test-gpu` runs it, in about five minutes.

Without a GPU every test is skipped, and nothing here is known to work. With one GPU, two workers share it and talk by
gloo, as NCCL takes no GPU twice; with two GPUs, each has its own, and they talk by NCCL.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from raycls.config import Config, override
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_dataset
from raycls.engines.memory import InParts
from raycls.engines.predictor import Predictor
from raycls.models.forward import compute_dtype, fast_bf16, native_fp16
from raycls.models.networks import build
from raycls.training import sampling
from raycls.training.encoded_split import open_split
from raycls.training.loop import Training, fit, start
from raycls.training.memory import free_memory, gpu_memory, largest_batch
from raycls.training.presets import preset
from raycls.training.snapshot import Snapshot
from tests.datasets import encoded_copy

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="NO GPU: nothing that needs one was tested"),
]
GPU = torch.device("cuda", 0)
AUGMENTED = [
    "rotate=10", "zoom=0.1", "brightness=0.2", "contrast=0.2", "saturation=0.2", "hue=0.1", "erase=0.3", "cutout=3",
    "crop=0.5", "vertical=true", "quarter_turns=true", "mixup=0.2", "cutmix=0.5", "clip_norm=1", "ema=0.9",
    "balance=weights",
]  # fmt: skip
NETWORKS = {"fastcnn": [], "cnn": ["optim.name=adamw"]}


@pytest.fixture(scope="module")
def digits(digits_home: Path) -> PackedDataset:
    return open_dataset("digits")


def _started(config: Config, dataset: PackedDataset, resume: Path | None = None) -> Training:
    training = start(config, dataset, device=GPU, resume=resume)
    assert isinstance(training, Training)
    return training


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("precision", ["auto", "fp16", "fp32"])
def test_it_learns_in_every_precision(digits: PackedDataset, network: str, precision: str) -> None:
    config = override(preset("fast", digits.info, network), ["epochs=8", f"precision={precision}"])
    training = _started(config, digits)
    found = [metrics for metrics, _ in training.epochs()]
    assert found[-1]["val_accuracy"] > 0.85
    assert training.train.images.device == training.train.labels.device == GPU


def test_bf16_is_taken_where_it_is_native_and_else_fp16() -> None:
    capability = torch.cuda.get_device_capability(GPU)
    assert fast_bf16(GPU) == (capability >= (8, 0))
    assert native_fp16(GPU) == (capability >= (7, 0))
    assert compute_dtype("auto", GPU) == (torch.bfloat16 if capability >= (8, 0) else torch.float16)


def test_a_resumed_run_has_its_scale_and_ends_as_the_undisturbed_one(
    digits: PackedDataset, tmp_path: Path
) -> None:
    config = override(preset("smoke", digits.info), ["epochs=4", "precision=fp16"])

    def keep(metrics: dict[str, float], snapshot: Snapshot) -> None:
        history.append(metrics)
        if metrics["epoch"] == 2:
            snapshot.save(tmp_path)

    history: list[dict[str, float]] = []
    fit(config, digits, on_epoch=keep, device=GPU)
    state = torch.load(tmp_path / "training_state.pt", weights_only=True)
    resumed = _started(config, digits, tmp_path)
    assert resumed.optimizer.scaler.get_scale() == state["scaler"]["scale"]
    (*_, (last, _)) = resumed.epochs()
    # Not the same bits: a GPU adds up in another order each time.
    assert last["val_loss"] == pytest.approx(history[-1]["val_loss"], rel=0.05)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("streamed", [False, True])
def test_no_step_waits_for_the_gpu(
    digits: PackedDataset, network: str, streamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PyTorch raises an error for each call that would wait, as one that copies a number to or from the GPU does.

    In fp32 and bf16: a scaled loss asks the GPU in each step whether its gradients are finite.
    """
    if streamed:
        monkeypatch.setattr(sampling, "DEVICE_SHARE", 0)
    settings = [*AUGMENTED, *NETWORKS[network], "precision=fp32", "batch_size=64"]
    training = _started(override(preset("smoke", digits.info, network), settings), digits)
    assert training.train.streamed == streamed
    training.network.train()
    training.optimizer.schedule(0.5)
    batches = training.train.ahead(training.order.batches(0))
    for _ in range(3):  # constants are made, and libraries choose their kernels
        training._step(next(batches), 0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            training._step(batch, 0)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_split_that_does_not_fit_trains_as_one_that_does(
    digits: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = override(preset("smoke", digits.info), ["epochs=4", "precision=fp32"])
    found = []
    for share in (0.5, 0.0):
        monkeypatch.setattr(sampling, "DEVICE_SHARE", share)
        training = _started(config, digits)
        assert training.train.images.is_cuda == (share > 0)
        (*_, (last, _)) = training.epochs()
        found.append(last["val_loss"])
    assert found[0] == pytest.approx(found[1], rel=0.05)


def test_batches_that_threads_send_are_the_right_ones(
    digits: PackedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page-locked memory is used again: a copy that had not ended would show another batch."""
    monkeypatch.setattr(sampling, "DEVICE_SHARE", 0)
    split = sampling.Split(digits, "train", GPU)
    images = torch.from_numpy(digits.images("train").copy()).to(GPU)
    busy = torch.randn(4096, 4096, device=GPU)
    for _ in range(3):
        for batch in split.ahead(torch.randperm(len(images)).split(100)):
            busy = busy @ busy / busy.norm()  # the host runs ahead of the GPU
            assert torch.equal(batch.pixels, images[batch.indices])


def test_a_split_in_shards_sends_the_right_batches_and_trains(digits: PackedDataset, home: Path) -> None:
    shards = encoded_copy(digits, "shards")
    split, images = open_split(shards, "train", GPU), torch.from_numpy(digits.images("train").copy()).to(GPU)
    busy = torch.randn(4096, 4096, device=GPU)
    for _ in range(3):
        for batch in split.ahead(torch.randperm(len(images)).split(100)):
            busy = busy @ busy / busy.norm()  # the host runs ahead of the GPU
            assert torch.equal(batch.pixels, images[batch.indices])
    (*_, (last, _)) = _started(override(preset("fast", digits.info), ["epochs=8"]), shards).epochs()
    assert last["val_accuracy"] > 0.9


def test_memory_that_pytorch_keeps_for_itself_is_free() -> None:
    torch.cuda.empty_cache()
    before, driver_before = free_memory(GPU), torch.cuda.mem_get_info(GPU)[0]
    block = torch.empty(1 << 29, dtype=torch.uint8, device=GPU)
    assert free_memory(GPU) <= before - (1 << 29)
    del block
    assert torch.cuda.mem_get_info(GPU)[0] <= driver_before - (1 << 29)
    assert free_memory(GPU) == pytest.approx(before, abs=64 << 20)
    assert gpu_memory() == free_memory(GPU)


@pytest.mark.parametrize("name", ["resnet18", "timm/efficientnet_lite0"])
def test_the_batch_that_should_fit_fits_and_leaves_no_great_part_empty(name: str) -> None:
    free = 2 << 30
    most = largest_batch(build(name, num_classes=10, image_size=224), 224, free)
    network = build(name, num_classes=10, image_size=224).to(GPU, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters())
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(GPU)
    held = torch.cuda.memory_allocated(GPU)
    for _ in range(2):
        network(torch.rand(most, 3, 224, 224, device=GPU)).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    used = torch.cuda.max_memory_allocated(GPU) - held
    assert 0.25 * free < used < free


def test_an_evaluation_that_does_not_fit_is_done_in_parts() -> None:
    torch.cuda.empty_cache()
    seen = []

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        wide = torch.from_numpy(images).to(GPU).float().repeat(1, 1000)
        seen.append(len(images))
        return wide.sum(1, keepdim=True).cpu().numpy(), wide[:, :2].cpu().numpy()

    images = np.arange(64 * 4096, dtype=np.uint8).reshape(64, 4096)  # 1 GB as a whole
    total = torch.cuda.get_device_properties(GPU).total_memory
    torch.cuda.set_per_process_memory_fraction(((400 << 20) + torch.cuda.memory_reserved(GPU)) / total, GPU)
    try:
        logits, embeddings = InParts(run)(images)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, GPU)
    assert seen == [16] * 4
    assert len(logits) == 64
    assert (embeddings == images[:, :2]).all()


@pytest.mark.parametrize("engine", ["torch", "cuda-graphs"])
def test_engines_answer_as_the_reference(digits: PackedDataset, tmp_path: Path, engine: str) -> None:
    config = override(preset("fast", digits.info), ["epochs=6"])
    fit(config, digits, on_epoch=lambda metrics, snapshot: snapshot.save(tmp_path), device=GPU)
    images = digits.images("val")[:100]
    reference, other = (
        Predictor.load(tmp_path, device="cuda", engine=name).probabilities(images)  # type: ignore[arg-type]
        for name in ("reference", engine)
    )
    assert np.abs(reference - other).max() < 0.05
    assert (reference.argmax(1) == other.argmax(1)).mean() > 0.97


TWO_WORKERS = """
import functools, json, os, sys, torch, torch.distributed as dist, torch.multiprocessing as mp
from raycls.config import Config
from raycls.data.versions import open_dataset
from raycls.training import loop
from raycls.training.data_parallel import DataParallel
from raycls.training.workers import Workers

def work(rank, store, configs, out):
    several = torch.cuda.device_count() > 1
    device = torch.device("cuda", rank if several else 0)
    torch.cuda.set_device(device)
    shared = dist.FileStore(store, 2)
    dist.init_process_group("nccl" if several else "gloo", store=shared, rank=rank, world_size=2)
    for name, (config, overlap) in json.loads(configs).items():
        loop.DataParallel = functools.partial(DataParallel, overlap=overlap)
        training = loop.start(Config.model_validate(config), open_dataset("digits"), device=device,
                              workers=Workers(rank, 2))
        figures = [metrics for metrics, _ in training.epochs()]
        kinds = {type(module).__name__ for module in training.network.modules()}
        torch.save({"weights": {k: v.cpu() for k, v in training.kept.state_dict().items()},
                    "val_loss": figures[-1]["val_loss"],
                    "norms": sorted(kind for kind in kinds if "Norm" in kind)},
                   f"{out}/{name}.{rank}")
    shared.set(f"done {rank}", "")
    shared.wait(["done 0", "done 1"])
    os._exit(0)

if __name__ == "__main__":
    mp.start_processes(work, args=tuple(sys.argv[1:]), nprocs=2, start_method="spawn")
"""


def test_two_workers_train_one_network(digits: PackedDataset, tmp_path: Path) -> None:
    shared = ["epochs=3", "precision=fp32", "translate=0", "flip=false"]
    # Uneven parts, layers that freeze and unfreeze, averaged weights.
    changing = override(
        preset("smoke", digits.info),
        [*shared, "batch_size=127", "freeze_after=0.7", "frozen_epochs=1", "ema=0.9"],
    )
    # Eight images of each worker: their batch norms see all sixteen.
    few = override(
        preset("smoke", digits.info, "cnn"), [*shared, "batch_size=16", "optim.name=sgd", "lr=0.01"]
    )
    configs = {"overlapped": (changing, None), "own": (changing, False), "synchronised": (few, None)}
    script = tmp_path / "two_workers.py"
    script.write_text(TWO_WORKERS)
    documents = json.dumps(
        {name: (config.model_dump(mode="json"), on) for name, (config, on) in configs.items()}
    )
    subprocess.run([sys.executable, script, tmp_path / "store", documents, tmp_path], check=True, timeout=280)
    found = {name: [torch.load(tmp_path / f"{name}.{rank}") for rank in (0, 1)] for name in configs}
    for first, second in found.values():
        for name, weights in first["weights"].items():
            assert torch.equal(weights, second["weights"][name]), name
    assert found["overlapped"][0]["norms"] == ["BatchNorm2d"]
    assert found["overlapped"][0]["val_loss"] == pytest.approx(found["own"][0]["val_loss"], rel=0.05)
    # As one worker that has all sixteen images.
    assert found["synchronised"][0]["norms"] == ["SyncBatchNorm"]
    alone = _started(few, digits)
    (*_, (last, _)) = alone.epochs()
    assert found["synchronised"][0]["val_loss"] == pytest.approx(last["val_loss"], rel=0.02)


def test_ray_trains_on_the_gpu_and_registers_a_version(digits_home: Path, ray_session: None) -> None:
    from raycls.training.scaling import scaling_of
    from raycls.training.trainer import train

    info = open_dataset("digits").info
    config = override(preset("smoke", info, gpu_memory=gpu_memory()), ["epochs=5", "precision=fp16"])
    wanted = scaling_of(1, config.training.batch_size, use_gpu=True)
    assert wanted == {"num_workers": 1, "use_gpu": True, "resources_per_worker": {"CPU": 2, "GPU": 1}}
    result = train("digits", config, workers=1, use_gpu=True, model="digits-on-a-gpu")
    assert result.version is not None
    assert result.metrics["test_accuracy"] > 0.6
