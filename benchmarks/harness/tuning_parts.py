"""The measurements of benchmarks/tuning.py: one function for each part of the results page.

    cost("cifar10", seeds=[0, 1, 2])       # the time of a trial beside its training
    grid("cifar10", seeds=[0, 1, 2])       # the default search and random search against the full grid
    stopping("cifar10", seeds=[0, 1, 2])   # the effect of stopping trials early
    optuna("cifar10", seeds, peer)         # raycls against plain Optuna in one process
    nodes("cifar10", seeds)                # two nodes of one core against one node
    widths("cifar10", seed=0)              # for the part "served": a study of widths; timed_again measures its latency

Each function returns rows of plain numbers, one for each seed; tuning_page.py computes the medians. Compute is counted
in epochs over the same number of images, because a busy machine does not change that number. The time of an epoch
differs by at most 10% between batch sizes. Wall time covers the whole search with the start of Ray.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from raycls import cluster, machine, progress
from raycls.cluster.environment import ALLOCATOR
from raycls.config import Config, override
from raycls.data.versions import open_dataset
from raycls.errors import BenchmarkError
from raycls.training.presets import preset
from raycls.tuning.plan import plan
from raycls.tuning.space import architecture
from raycls.tuning.spec import Trial
from raycls.tuning.study import Outcome, Study, search, tune

Row = dict[str, Any]

# A trial of two seconds, so that its other costs are visible.
SMALL = ["training.train_fraction=0.05", "training.batch_size=500", "training.reduced_share=0"]
SMALL_TRIALS = 20
# A typical study: a few epochs on a part of the images.
STUDY = ["training.train_fraction=0.15", "training.reduced_share=0"]
GRID = ["training.train_fraction=0.1", "training.reduced_share=0"]  # 200 trials a seed
STUDY_EPOCHS = 3
STUDY_TRIALS = 12
WITHIN = 0.002  # a validation accuracy this near to the grid's best counts as equal
SEARCH_TRIALS = 24  # half the trials of the grid
LONG_EPOCHS = 9  # a trial of this length can be stopped early


def cost(dataset: str, seeds: Sequence[int]) -> list[Row]:
    """Measure the time of a trial outside its training loop, s, in a study of one process, without the first trial."""
    rows = []
    for seed in seeds:
        config = _config(dataset, SMALL, seed)
        with _ray(cpus=1):
            spec = plan(dataset, config, trials=SMALL_TRIALS, max_epochs=1, scheduler="none", seed=seed)
            trials = search(spec, _name("cost")).trials
        ends = [trial.ended_at or 0.0 for trial in trials]
        training = sum(trial.seconds for trial in trials[1:])
        rows.append(
            {
                "seed": seed,
                "seconds_per_trial": (ends[-1] - ends[0] - training) / (len(trials) - 1),
                "training_seconds": training / (len(trials) - 1),
            }
        )
    return rows


def grid(dataset: str, seeds: Sequence[int]) -> list[Row]:
    """Measure the compute until the default search is WITHIN the grid's best, and what random search finds in the
    compute of the default search.
    """
    rows = []
    for seed in seeds:
        config = _config(dataset, GRID, seed)
        with _ray(cpus=machine.cores()):
            whole = _trials(dataset, config, seed, search="grid")
            ours = _trials(dataset, config, seed, trials=SEARCH_TRIALS)
            drawn = _trials(dataset, config, seed, trials=SEARCH_TRIALS, search="random")
        best = _best(whole)
        rows.append(
            {
                "seed": seed,
                "grid_best": best,
                "grid_epochs": _compute(whole),
                "best": _best(ours),
                "epochs": _compute(ours),
                "reached_epochs": _compute_until(ours, best - WITHIN),
                "random_best": _best(drawn),
                "random_epochs": _compute(drawn),
            }
        )
    return rows


def stopping(dataset: str, seeds: Sequence[int]) -> list[Row]:
    """Run the same study of long trials with ASHA and without early stopping: compute and best accuracy of both, and
    the best accuracy without early stopping in ASHA's compute.
    """
    rows = []
    for seed in seeds:
        config = _config(dataset, SMALL, seed)
        row: Row = {"seed": seed}
        with _ray(cpus=machine.cores()):
            for scheduler in ("asha", "none"):
                trials = _trials(
                    dataset,
                    config,
                    seed,
                    LONG_EPOCHS,
                    trials=SEARCH_TRIALS,
                    search="tpe",
                    scheduler=scheduler,
                )
                row[f"{scheduler}_best"] = _best(trials)
                row[f"{scheduler}_epochs"] = _compute(trials)
                if scheduler == "asha":
                    row["stopped_early"] = sum(trial.state == "stopped early" for trial in trials)
        row["none_best_in_as_much"] = _best_within(trials, row["asha_epochs"])
        rows.append(row)
    return rows


def optuna(dataset: str, seeds: Sequence[int], peer: Path) -> list[Row]:
    """Measure the wall time of one study with raycls and with plain Optuna in one process on all cores, in turns.

    Both search with TPE and stop no trial early, so that they train the same number of epochs. The peer runs twice:
    with default settings, and with the allocator settings that raycls gives its trials.
    """
    rows = []
    for seed in seeds:
        plain = _plain(peer, dataset, seed, {})
        started = time.monotonic()
        config = _config(dataset, STUDY, seed)
        with _ray(cpus=machine.cores()):
            ours = _trials(dataset, config, seed, trials=STUDY_TRIALS, search="tpe")
        seconds = time.monotonic() - started
        helped = _plain(peer, dataset, seed, ALLOCATOR)
        rows.append(
            {
                "seed": seed,
                "seconds": seconds,
                "plain_seconds": plain["seconds"],
                "helped_seconds": helped["seconds"],
                "best": _best(ours),
                "plain_best": max(trial["val_accuracy"] for trial in plain["trials"]),
                "epochs": _compute(ours),
                "plain_epochs": sum(trial["epochs"] for trial in plain["trials"]),
                "helped_epochs": sum(trial["epochs"] for trial in helped["trials"]),
            }
        )
    return rows


def _plain(peer: Path, dataset: str, seed: int, environment: dict[str, str]) -> dict[str, Any]:
    settings = json.dumps([*STUDY, f"training.seed={seed}"])
    command = [sys.executable, str(peer), "--dataset", dataset, "--preset", "quick", "--settings", settings]
    command += ["--trials", str(STUDY_TRIALS), "--epochs", str(STUDY_EPOCHS), "--seed", str(seed)]
    with progress.bar(f"plain Optuna, seed {seed}"):
        done = subprocess.run(
            command, stdout=subprocess.PIPE, text=True, check=False, env=os.environ | environment
        )
    if done.returncode:
        raise BenchmarkError(f"{peer} failed with exit code {done.returncode}; the lines above say why")
    return json.loads(done.stdout.splitlines()[-1])


def nodes(dataset: str, seeds: Sequence[int]) -> list[Row]:
    """Measure the wall time of one study on one node of one core and on two such nodes, in turns.

    The nodes are simulated on this machine.
    """
    rows = []
    for seed in seeds:
        row: Row = {"seed": seed}
        config = _config(dataset, STUDY, seed)
        for count in (1, 2):
            with _nodes(count):
                started = time.monotonic()
                _trials(dataset, config, seed, trials=STUDY_TRIALS)
                row[f"seconds_{count}"] = time.monotonic() - started
        rows.append(row)
    return rows


def widths(dataset: str, seed: int) -> Outcome:
    """Run a study of accuracy and latency up to its registered model, on its own Ray."""
    with _ray(cpus=machine.cores()):
        spec = plan(
            dataset,
            _config(dataset, STUDY, seed),
            trials=STUDY_TRIALS,
            max_epochs=1,
            objective="accuracy,latency",
            seed=seed,
            model=f"{dataset}-widths",
        )
        return tune(spec, _name("widths"))


def timed_again(study: Study) -> float:
    """Measure the winner's latency once more on the running cluster, ms."""
    from raycls.tuning.execution import time_architectures

    cluster.connect()
    winner = architecture(study.best.config(study.spec.config))
    return time_architectures(study.spec, open_dataset(study.spec.dataset))[winner]


def _config(dataset: str, settings: Sequence[str], seed: int) -> Config:
    return override(preset("quick", open_dataset(dataset).info), [*settings, f"training.seed={seed}"])


def _trials(
    dataset: str, config: Config, seed: int, epochs: int = STUDY_EPOCHS, **options: Any
) -> tuple[Trial, ...]:
    spec = plan(dataset, config, max_epochs=epochs, seed=seed, **options)
    return search(spec, _name(spec.search)).trials


def _best(trials: Sequence[Trial]) -> float:
    return max(trial.score or 0.0 for trial in trials)


def _compute(trials: Sequence[Trial]) -> int:
    return sum(trial.epochs for trial in trials)


def _compute_until(trials: Sequence[Trial], accuracy: float) -> float | None:
    """Return the epochs spent until the first trial with this accuracy ended; None if there is no such trial.

    A trial that was running at that time counts in part.
    """
    ends = [trial.ended_at or 0.0 for trial in trials if (trial.score or 0) >= accuracy]
    if not ends:
        return None
    first = min(ends)
    spent = 0.0
    for trial in trials:
        if trial.asked_at < first:
            share = (first - trial.asked_at) / max((trial.ended_at or first) - trial.asked_at, 1e-9)
            spent += trial.epochs * min(1.0, share)
    return spent


def _best_within(trials: Sequence[Trial], epochs: float) -> float:
    """Return the best accuracy of the trials that ended within this many epochs of compute."""
    best = spent = 0.0
    for trial in sorted(trials, key=lambda trial: trial.ended_at or math.inf):
        spent += trial.epochs
        if spent <= epochs:
            best = max(best, trial.score or 0.0)
    return best


def _name(kind: str) -> str:
    return f"benchmark-{kind}-{uuid.uuid4().hex[:8]}"


@contextmanager
def _ray(cpus: int | None) -> Iterator[None]:
    """Run the body on its own Ray with so many cores."""
    import ray

    ray.shutdown()
    cluster.connect(num_cpus=cpus)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _nodes(count: int) -> Iterator[None]:
    """Run the body on a cluster of so many nodes with one core each, all on this machine."""
    import ray
    from ray.cluster_utils import Cluster

    ray.shutdown()
    simulated = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        for _ in range(count - 1):
            simulated.add_node(num_cpus=1)
        os.environ["RAY_ADDRESS"] = simulated.address
        cluster.connect()
        yield
    finally:
        os.environ.pop("RAY_ADDRESS", None)
        ray.shutdown()
        simulated.shutdown()
