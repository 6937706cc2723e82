"""What a study costs and what it finds: one part of the page at a time, each compared in turns within one call.

    python benchmarks/tuning.py cost --seeds 0,1,2      # a trial beyond its training
    python benchmarks/tuning.py grid --seeds 0,1,2      # the default search, the full grid, random search
    python benchmarks/tuning.py stopping --seeds 0,1,2  # what stopping trials early saves and costs
    python benchmarks/tuning.py optuna --seeds 0,1,2    # against plain Optuna in one process
    python benchmarks/tuning.py nodes --seeds 0,1,2     # two nodes of one core against one
    python benchmarks/tuning.py served --seeds 0,1,2    # a study's latency again, from the model it made, served

Results go to OUTPUT/tuning/PART.json (benchmarks/results), from which the page OUTPUT/tuning.md is made anew, and one
JSON document to the last line of stdout.
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
from raycls.data.packed import open_dataset
from raycls.reports.pictures import png
from raycls.serving.control import deploy
from raycls.serving.control.configuration import ServeConfiguration

HERE = Path(__file__).parent
SERVED_TURNS = 5


def main(arguments: list[str]) -> None:
    """Parse, measure, write, print. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=list(tuning_page.SECTIONS))
    parser.add_argument("--dataset", default="cifar10", help="a prepared dataset (default: cifar10)")
    parser.add_argument("--seeds", type=seeds, default=[0, 1, 2], help="one comparison each (default: 0,1,2)")
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
    progress.say(f"written: {file}, {tuning_page.write(options.output)}")
    print(json.dumps(document))


def served(dataset: str, seeds: list[int]) -> list[results_page.Row]:
    """The latency that a study chose by, and that of the model it made as its only replica counts it."""
    image = png(open_dataset(dataset).images("test")[0])
    document = ServeConfiguration.read(HERE.parent / "serve_config.yaml")
    rows = []
    for seed in seeds:
        outcome = tuning_parts.widths(dataset, seed)
        version, latency_ms = outcome.training.version, outcome.study.best.latency_ms
        assert version is not None
        at = deploy.up(document.pinned(model=version.reference, replicas=1), detach=True)
        try:
            # In turns: the machine's pace may have changed since the study began.
            pairs = [
                (tuning_parts.timed_again(outcome.study), forward_ms(f"{at.url}/predict", image))
                for _ in range(SERVED_TURNS)
            ]
        finally:
            ray.shutdown()
            deploy.down()
        again, served = (statistics.median(column) for column in zip(*pairs, strict=True))
        front = [(trial.latency_ms, trial.val_accuracy) for trial in outcome.study.front]
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
