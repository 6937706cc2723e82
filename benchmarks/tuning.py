"""Measure what a study costs and what it finds. Each call measures one part of the results page.

    python benchmarks/tuning.py cost --seeds 0,1,2      # the time of a trial beside its training
    python benchmarks/tuning.py grid --seeds 0,1,2      # the default search, the full grid and random search
    python benchmarks/tuning.py stopping --seeds 0,1,2  # the effect of stopping trials early
    python benchmarks/tuning.py optuna --seeds 0,1,2    # raycls against plain Optuna in one process
    python benchmarks/tuning.py nodes --seeds 0,1,2     # two nodes of one core against one node
    python benchmarks/tuning.py served --seeds 0,1,2    # a latency in the study against the served model's latency

A comparison runs its sides in turns. The results go to OUTPUT/tuning/PART.json (default: benchmarks/results), and the
page OUTPUT/tuning.md is rebuilt. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import ray
from harness import results_page, tuning_page, tuning_parts
from harness.results_page import seeds

from raycls import command, progress
from raycls.benchmark.batch_counts import forward_ms
from raycls.data.versions import open_dataset
from raycls.reports.pictures import png
from raycls.serving.control import deploy
from raycls.serving.control.configuration import ServeConfiguration

HERE = Path(__file__).parent
SERVED_TURNS = 5


def main(arguments: list[str]) -> None:
    """Measure one part, write the results and print them. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=list(tuning_page.SECTIONS))
    parser.add_argument("--dataset", default="cifar10", help="a prepared dataset (default: cifar10)")
    parser.add_argument(
        "--seeds", type=seeds, default=[0, 1, 2], help="one comparison for each seed (default: 0,1,2)"
    )
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder for the results")
    options = parser.parse_args(arguments)
    open_dataset(options.dataset)
    match options.part:
        case "served":
            rows = served(options.dataset, options.seeds)
        case "optuna":
            rows = tuning_parts.optuna(options.dataset, options.seeds, HERE / "peers" / "plain_optuna.py")
        case part:
            rows = getattr(tuning_parts, part)(options.dataset, options.seeds)
    document = results_page.document(options.part, {"dataset": options.dataset}, rows)
    file = results_page.keep(options.output, "tuning", document)
    progress.say(f"wrote {file} and {tuning_page.write(options.output)}")
    print(json.dumps(document))


def served(dataset: str, seeds: list[int]) -> list[results_page.Row]:
    """Return, for each seed, the winner's latency in the study and the latency that its only replica measures."""
    image = png(open_dataset(dataset).images("test")[0])
    document = ServeConfiguration.read(HERE.parent / "serve_config.yaml")
    rows = []
    for seed in seeds:
        outcome = tuning_parts.widths(dataset, seed)
        version, latency_ms = outcome.training.version, outcome.study.best.latency_ms
        assert version is not None
        at = deploy.up(document.pinned(model=version.reference, replicas=1), detach=True)
        try:
            # In turns, because the machine's speed changes over minutes.
            pairs = [
                (tuning_parts.timed_again(outcome.study), forward_ms(f"{at.url}/predict", image))
                for _ in range(SERVED_TURNS)
            ]
        finally:
            ray.shutdown()
            deploy.down()
        again, served = (statistics.median(column) for column in zip(*pairs, strict=True))
        front = [(trial.latency_ms, trial.score) for trial in outcome.study.front]
        rows.append(
            {
                "seed": seed,
                "latency_ms": latency_ms,
                "again_ms": again,
                "served_ms": served,
                "front": front,
            }
        )
    return rows


if __name__ == "__main__":
    command.run(main)
