"""Two real workers: PyTorch's DistributedDataParallel and the mean of our own take the same steps, and those of one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from raycls.config import override
from raycls.data.packed import PackedDataset
from raycls.training.data_parallel import DataParallel, synchronised
from raycls.training.loop import fit
from raycls.training.presets import preset
from raycls.training.workers import Workers

BEGIN = """
import functools, json, os, sys, torch, torch.distributed as dist, torch.multiprocessing as mp
from raycls.training import loop
from raycls.training.data_parallel import DataParallel
from raycls.training.workers import Workers

def begin(rank, store):
    torch.set_num_threads(1)
    shared = dist.FileStore(store, 2)
    dist.init_process_group("gloo", store=shared, rank=rank, world_size=2)
    return shared

def end(shared, rank):
    shared.set(f"done {rank}", "")  # not by a barrier: who leaves it first breaks the connection of who still reads
    shared.wait(["done 0", "done 1"])
    os._exit(0)  # gloo's threads outlive the group here; one that lets go of a tensor while Python ends aborts
"""
END = """
if __name__ == "__main__":
    mp.start_processes(work, args=tuple(sys.argv[1:]), nprocs=2, start_method="fork")
"""
TRAIN = """
from raycls.config import Config
from raycls.data.versions import open_dataset

def work(rank, store, configs, out):
    shared = begin(rank, store)
    for name, (config, overlap) in json.loads(configs).items():
        loop.DataParallel = functools.partial(DataParallel, overlap=overlap)
        network = loop.fit(Config.model_validate(config), open_dataset("digits"),
                           on_epoch=lambda metrics, snapshot: None, workers=Workers(rank, 2))
        torch.save(network.state_dict(), f"{out}/{name}.{rank}")
    end(shared, rank)
"""
# One parameter has no part in the answer, and one is frozen after two steps.
UNUSED = """
class Odd(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.head, self.unused = (torch.nn.Linear(2, 2) for _ in range(3))

    def forward(self, x):
        return self.head(self.first(x))

def work(rank, store, out):
    shared = begin(rank, store)
    found = {}
    for overlap in (False, True):
        torch.manual_seed(0)
        network = Odd()
        parallel = DataParallel(network, Workers(rank, 2), torch.device("cpu"), overlap)
        given = torch.randn(2, 6, 2)[rank]
        for step in range(6):
            if step == 2:
                network.first.requires_grad_(False)
            parallel(given).square().sum().backward()
            parallel.average_gradients()
            gradients = [None if p.grad is None else p.grad.clone() for p in network.parameters()]
            found.setdefault(step, []).append(gradients)
            network.zero_grad()
    torch.save(found, f"{out}/{rank}")
    broadcast = torch.full((3, 2), float(rank)).T
    Workers(rank, 2).broadcast([broadcast])
    torch.save(broadcast, f"{out}/broadcast.{rank}")
    end(shared, rank)
"""


def work_together(script: str, folder: Path, *arguments: str) -> None:
    """Run a function `work(rank, store, …)` in two processes."""
    path = folder / "workers.py"
    path.write_text(BEGIN + script + END)
    subprocess.run([sys.executable, path, folder / "store", *arguments, folder], check=True, timeout=200)


def _same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_both_ways_take_the_same_steps_where_layers_freeze_and_parts_differ(
    digits: PackedDataset, tmp_path: Path
) -> None:
    smoke = preset("smoke", digits.info)
    shared = ["epochs=3", "batch_size=127", "precision=fp32", "balance=weights"]
    configs = {
        "freezing": override(smoke, [*shared, "freeze_after=0.7", "ema=0.9", "frozen_epochs=1"]),
        # Without what each worker draws or measures for itself.
        "plain": override(preset("smoke", digits.info, "mlp"), [*shared, "translate=0", "widths=[16]"]),
    }
    documents = {
        f"{name}-{overlap}": (config.model_dump(mode="json"), overlap)
        for name, config in configs.items()
        for overlap in (False, True)
    }
    work_together(TRAIN, tmp_path, json.dumps(documents))
    found = {
        name: [torch.load(tmp_path / f"{name}.{rank}", weights_only=True) for rank in (0, 1)]
        for name in documents
    }
    for first, second in found.values():
        assert _same(first, second)
    for name in configs:
        assert _same(found[f"{name}-False"][0], found[f"{name}-True"][0])
    alone = fit(configs["plain"], digits, on_epoch=lambda metrics, snapshot: None).state_dict()
    for name, expected in alone.items():
        assert torch.allclose(found["plain-True"][0][name], expected, atol=1e-5), name


def test_a_parameter_without_a_part_is_left_out_and_frozen_ones_are_noticed(tmp_path: Path) -> None:
    work_together(UNUSED, tmp_path)
    first, second = (torch.load(tmp_path / str(rank), weights_only=True) for rank in (0, 1))
    for step, (own, theirs) in first.items():
        learning = [gradient is not None for gradient in own]
        assert learning == ([True] * 4 if step < 2 else [False, False, True, True]) + [False, False]
        for gradients in (theirs, *second[step]):
            assert [gradient is not None for gradient in gradients] == learning
            assert all(torch.equal(a, b) for a, b in zip(own, gradients, strict=True) if a is not None)
    for rank in (0, 1):
        assert torch.load(tmp_path / f"broadcast.{rank}", weights_only=True).eq(0).all()


def test_uneven_parts_count_by_their_images() -> None:
    values = torch.arange(7.0)
    parts = [(worker := Workers(rank, 3)).share(values).mean() * worker.weight(len(worker.share(values)), 7)
             for rank in range(3)]  # fmt: skip
    assert sum(parts) / 3 == pytest.approx(values.mean().item())
    assert Workers(1, 2).weight(500, 1000) == 1


def test_one_worker_and_cpus_keep_their_batch_norms() -> None:
    network = torch.nn.Sequential(torch.nn.BatchNorm2d(2))
    for workers, device in ((Workers(), "cuda"), (Workers(0, 2), "cpu")):
        kept = synchronised(network, workers, 16, torch.device(device))  # type: ignore[arg-type]
        assert type(kept[0]) is torch.nn.BatchNorm2d  # type: ignore[index]


@pytest.mark.parametrize(("batch_size", "wanted"), [(31, "SyncBatchNorm"), (32, "BatchNorm2d")])
def test_few_images_share_their_batch_norms_on_gpus(batch_size: int, wanted: str) -> None:
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1), torch.nn.BatchNorm2d(2))
    names = list(network.state_dict())
    found = synchronised(network, Workers(0, 2), batch_size, torch.device("cuda"))  # type: ignore[arg-type]
    assert type(found[1]).__name__ == wanted  # type: ignore[index]
    assert list(found.state_dict()) == names


def test_a_single_worker_calls_its_network() -> None:
    network = torch.nn.Linear(2, 2)
    parallel = DataParallel(network, Workers(), torch.device("cuda"), overlap=True)  # type: ignore[arg-type]
    parallel(torch.ones(1, 2)).sum().backward()
    parallel.average_gradients()
    assert network.weight.grad is not None
