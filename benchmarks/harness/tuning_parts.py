"""What is measured of studies: one function per part of the page.

    cost("cifar10", seeds=[0, 1, 2])       # what a trial takes beyond its training
    grid("cifar10", seeds=[0, 1, 2])       # the default search and random search against the full grid
    stopping("cifar10", seeds=[0, 1, 2])   # what stopping hopeless trials early saves and costs
    optuna("cifar10", seeds, peer)         # against plain Optuna in one process
    nodes("cifar10", seeds)                # two nodes of one core against one
    widths("cifar10", seed=0)              # for the part served: a study to its model; timed_again, its latency

Every part returns rows of plain numbers, one for each seed; medians are the page's. Compute is counted in epochs, all
over as many images: it is the same on any machine, however busy, and an epoch's seconds differ by a tenth at most with
the batch size. Wall time is the whole search's, the start of Ray included.
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
from raycls.config import Config, override, preset
from raycls.data.packed import open_dataset
from raycls.errors import BenchmarkError
from raycls.tuning.space import architecture
from raycls.tuning.spec import Trial
from raycls.tuning.study import Outcome, Study, plan, search, tune

Row = dict[str, Any]

# A trial of two seconds: what it costs beyond them is then seen.
SMALL = ["training.train_fraction=0.05", "training.batch_size=500", "training.reduced_share=0"]
SMALL_TRIALS = 20
# A study as people make it: some epochs on part of the images.
STUDY = ["training.train_fraction=0.15", "training.reduced_share=0"]
GRID = ["training.train_fraction=0.1", "training.reduced_share=0"]  # 200 trials a seed
STUDY_EPOCHS = 3
STUDY_TRIALS = 12
WITHIN = 0.002  # of the grid's best validation accuracy: as good as it
SEARCH_TRIALS = 24  # half the grid's
LONG_EPOCHS = 9  # of a trial long enough to be stopped early


def cost(dataset: str, seeds: Sequence[int]) -> list[Row]:
    """Seconds of a trial beyond its training loop, in a study of one process, after the process's first trial."""
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
    """The compute in which the default search comes within WITHIN of the grid's best; and what random search finds in
    as much as the default search took.
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
    """The same study of long trials with ASHA and without: compute and best accuracy, and the best that the one
    without had found in the compute of the one with.
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
    """Wall time of the same study under raycls and by plain Optuna in one process on all cores, in turns.

    Both search with TPE and stop no trial early, so that they train the same epochs. The peer runs twice: as it comes,
    and with the allocator's settings that raycls gives its trials.
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
        raise BenchmarkError(f"{peer} failed with exit code {done.returncode}; its reason is above")
    return json.loads(done.stdout.splitlines()[-1])


def nodes(dataset: str, seeds: Sequence[int]) -> list[Row]:
    """Wall time of the same study on one node of one core and on two, simulated on this machine, in turns."""
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
    """A study of accuracy and latency, to the registered model, with a Ray that is gone afterwards."""
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
    """The winner's latency in ms, measured once more, on the cluster that runs now."""
    from raycls.tuning.execution import time_architectures

    cluster.connect()
    made = architecture(study.best.config(study.spec.config))
    return time_architectures(study.spec, open_dataset(study.spec.dataset))[made]


def _config(dataset: str, settings: Sequence[str], seed: int) -> Config:
    return override(preset("quick", open_dataset(dataset).manifest), [*settings, f"training.seed={seed}"])


def _trials(
    dataset: str, config: Config, seed: int, epochs: int = STUDY_EPOCHS, **options: Any
) -> tuple[Trial, ...]:
    spec = plan(dataset, config, max_epochs=epochs, seed=seed, **options)
    return search(spec, _name(spec.search)).trials


def _best(trials: Sequence[Trial]) -> float:
    return max(trial.val_accuracy or 0.0 for trial in trials)


def _compute(trials: Sequence[Trial]) -> int:
    return sum(trial.epochs for trial in trials)


def _compute_until(trials: Sequence[Trial], accuracy: float) -> float | None:
    """Epochs of all trials, of running ones in part, until one that reached the accuracy ended; None if none did."""
    ends = [trial.ended_at or 0.0 for trial in trials if (trial.val_accuracy or 0) >= accuracy]
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
    """The best of the trials that had ended when that much compute was spent."""
    best = spent = 0.0
    for trial in sorted(trials, key=lambda trial: trial.ended_at or math.inf):
        spent += trial.epochs
        if spent <= epochs:
            best = max(best, trial.val_accuracy or 0.0)
    return best


def _name(kind: str) -> str:
    return f"benchmark-{kind}-{uuid.uuid4().hex[:8]}"


@contextmanager
def _ray(cpus: int | None) -> Iterator[None]:
    """A Ray of its own with so many cores."""
    import ray

    ray.shutdown()
    cluster.connect(num_cpus=cpus)
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def _nodes(count: int) -> Iterator[None]:
    """A cluster of so many nodes, one core each, all on this machine."""
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
