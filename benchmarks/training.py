"""Test accuracy and time of a preset's training loop, against epochs of the plain peer, in one interleaved call.

    python benchmarks/training.py --dataset cifar10 --preset fast --seeds 0,1,2

For each seed: one epoch of benchmarks/peers/plain_cnn.py in a process of its own, then one whole `raycls` run under
Ray Train. The loop's time includes whitening, augmentation and validation, not the start of processes; an epoch of
the peer is its pass over the training split alone. A page goes to --output (benchmarks/results/training.md), one JSON
document to the last line of stdout. It says nothing about GPUs: the peer runs on the CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raycls import machine, progress
from raycls.config import Config, override, preset
from raycls.data.packed import open_dataset
from raycls.errors import BenchmarkError, ConfigError, RayclsError
from raycls.training.trainer import train

PEER = Path(__file__).parent / "peers" / "plain_cnn.py"
RESULTS = Path(__file__).parent / "results"
PAGE = """\
# Training {dataset}, preset {preset}

{date} UTC, n = {n} seeds.

Test accuracy {test_accuracy:.2%}{spread} (mean ± standard deviation, no test-time augmentation); training loop
{train_seconds:.1f} s (median), which is the time of **{peer_epochs:.2f} epochs** of the plain peer
({peer_epoch_seconds:.1f} s each).

| seed | test accuracy | val accuracy | training loop s | peer's epoch s | peer's accuracy after it |
|---|---|---|---|---|---|
{runs}

Peer: benchmarks/peers/plain_cnn.py (two convolutions, Adam, batches of 64, DataLoader over PIL transforms); its epoch
is the pass over the training split alone. Peer and runs took turns. The loop's seconds include whitening,
augmentation and validation, not the start of Ray's processes.

| | |
|---|---|
{facts}
"""


@dataclass(frozen=True)
class Run:
    """One seed: the training loop's seconds, accuracies (0..1), and the seconds of the peer's epoch before it."""

    seed: int
    train_seconds: float
    test_accuracy: float
    val_accuracy: float
    peer_epoch_seconds: float
    peer_test_accuracy: float


def measure(dataset: str, config: Config, seeds: list[int], workers: int | None) -> list[Run]:
    """Peer and run in turns, a pair for each seed. Raises BenchmarkError when the peer fails, and train's errors."""
    runs = []
    for seed in seeds:
        peer = _peer_epoch(dataset, seed)
        result = train(dataset, override(config, [f"training.seed={seed}"]), workers=workers, register=False)
        metrics = {name: result.metrics[name] for name in ("train_seconds", "test_accuracy", "val_accuracy")}
        runs.append(
            Run(
                seed=seed,
                peer_epoch_seconds=peer["epoch_seconds"][0],
                peer_test_accuracy=peer["test_accuracy"][0],
                **metrics,
            )
        )
    return runs


def summary(runs: list[Run]) -> dict[str, float | None]:
    """Means and sample standard deviations over the seeds; the ratio is of the medians."""
    accuracies, seconds = [run.test_accuracy for run in runs], [run.train_seconds for run in runs]
    peer = statistics.median(run.peer_epoch_seconds for run in runs)
    return {
        "test_accuracy": statistics.mean(accuracies),
        "test_accuracy_std": statistics.stdev(accuracies) if len(runs) > 1 else None,
        "train_seconds": statistics.median(seconds),
        "peer_epoch_seconds": peer,
        "peer_epochs": statistics.median(seconds) / peer,
    }


def markdown(document: dict[str, Any]) -> str:
    """The page: what came out, each seed, and the circumstances."""
    std = document["test_accuracy_std"]
    runs = [
        f"| {run['seed']} | {run['test_accuracy']:.2%} | {run['val_accuracy']:.2%} | {run['train_seconds']:.1f} "
        f"| {run['peer_epoch_seconds']:.1f} | {run['peer_test_accuracy']:.2%} |"
        for run in document["runs"]
    ]
    facts = {**document["hardware"], **document["versions"], **document["config"]}
    return PAGE.format(
        **{**document, "runs": "\n".join(runs)},
        n=len(runs),
        spread=f" ± {std:.2%}" if std is not None else "",
        facts="\n".join(f"| {name} | {value} |" for name, value in facts.items()),
    )


def _peer_epoch(dataset: str, seed: int) -> dict[str, list[float]]:
    command = [sys.executable, str(PEER), "--dataset", dataset, "--epochs", "1", "--seed", str(seed)]
    with progress.bar(f"the plain peer's epoch, seed {seed}"):
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise BenchmarkError(f"the plain peer failed with exit code {done.returncode}; its reason is above")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: list[str]) -> None:
    """Parse, measure, write, print. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="cifar10", help="a prepared dataset (default: cifar10)")
    parser.add_argument("--preset", default="fast", help="fast, accurate or smoke (default: fast)")
    parser.add_argument("--seeds", default="0,1,2", help="one run each (default: 0,1,2)")
    parser.add_argument("--workers", type=int, help="Ray Train's (default: raycls's own choice)")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change one setting")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the page")
    options = parser.parse_args(arguments)
    try:
        seeds = [int(seed) for seed in options.seeds.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {options.seeds} is not a list of whole numbers like 0,1,2") from None
    config = override(preset(options.preset, open_dataset(options.dataset).manifest), options.set)

    runs = measure(options.dataset, config, seeds, options.workers)
    document = {
        "benchmark": "training",
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "dataset": options.dataset,
        "preset": options.preset,
        **summary(runs),
        "runs": [asdict(run) for run in runs],
        "config": {key: value for key, value in config.flat().items() if key != "training.seed"},
        "hardware": machine.hardware(),
        "versions": machine.versions(),
    }
    options.output.mkdir(parents=True, exist_ok=True)
    page = options.output / "training.md"
    page.write_text(markdown(document))
    progress.say(f"written: {page}")
    print(json.dumps(document))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except RayclsError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
