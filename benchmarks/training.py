"""Measure how fast and how well raycls trains. Each call measures one part of the results page.

    python benchmarks/training.py presets --preset fast --seeds 0,1,2     # a preset against epochs of the plain peer
    python benchmarks/training.py ray --pairs 5                           # Ray Train against bare processes
    python benchmarks/training.py workers --pairs 5                       # two workers against one: images/s
    python benchmarks/training.py agreement --seeds 0,1,2                 # two workers against one: accuracy
    python benchmarks/training.py memory                                  # memory of one worker
    python benchmarks/training.py levers --seeds 0,1,2                    # the effect of each setting of `fast`
    python benchmarks/training.py networks --dataset emotions --init cifar10/1

A comparison runs both sides in turns. The results go to OUTPUT/training/PART.json (default: benchmarks/results) and
the page OUTPUT/training.md is rebuilt. The last line of stdout is one JSON document. An interrupted call leaves its
finished rows in PART.partial.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import results_page, training_page, training_parts
from harness.results_page import seeds

from raycls import command, progress
from raycls.data.versions import open_dataset

PEER = Path(__file__).parent / "peers" / "plain_cnn.py"
RESULTS = Path(__file__).parent / "results"


def measure(options: argparse.Namespace) -> Iterator[results_page.Document]:
    """Yield the document of one part after each of its rows. It has the part's name, arguments and rows so far."""
    part, dataset, seeds, pairs = options.part, options.dataset, options.seeds, options.pairs
    arguments: dict[str, Any] = {"dataset": dataset}
    if part == "presets":
        arguments |= {"preset": options.preset, "settings": options.set, "refit": options.refit}
        rows = training_parts.presets(dataset, options.preset, seeds, PEER, options.set, refit=options.refit)
        parts = ["presets", options.preset, *(["refit"] if options.refit else ()), *options.set]
        name = re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower())
    elif part == "ray":
        arguments |= {"workers": options.workers, "threads": options.threads}
        rows = training_parts.ray(dataset, pairs, options.workers, options.threads)
        name = f"ray-{options.workers}x{options.threads}"
    elif part == "networks":
        rows = training_parts.networks(dataset, seeds, options.init)
        name = f"networks-{dataset}"
    else:
        given = {"workers": [pairs], "agreement": [seeds], "memory": [], "levers": [seeds]}[part]
        rows = getattr(training_parts, part)(dataset, *given)
        name = part
    measured: list[results_page.Row] = []
    for row in rows:
        measured.append(row)
        yield results_page.document(name, arguments, measured)


def main(arguments: list[str]) -> None:
    """Measure one part, write the results and print them. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=list(training_page.SECTIONS))
    parser.add_argument("--dataset", default="cifar10", help="a prepared dataset (default: cifar10)")
    parser.add_argument("--preset", default="fast", help="presets: which one (default: fast)")
    parser.add_argument(
        "--seeds", type=seeds, default=[0, 1, 2], help="one run for each seed (default: 0,1,2)"
    )
    parser.add_argument("--pairs", type=int, default=5, help="ray, workers: number of pairs (default: 5)")
    parser.add_argument("--workers", type=int, default=2, help="ray: number of workers (default: 2)")
    parser.add_argument("--threads", type=int, default=1, help="ray: threads of each worker (default: 1)")
    parser.add_argument("--init", help="networks: also fine-tune this registered model")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="presets: change a setting"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    parser.add_argument(
        "--refit", action="store_true", help="presets: train on train and val, as a refit does"
    )
    options = parser.parse_args(arguments)
    open_dataset(options.dataset)

    file, document = results_page.keep_last(options.output, "training", measure(options))
    progress.say(f"wrote {file} and {training_page.write(options.output)}")
    print(json.dumps(document))


if __name__ == "__main__":
    command.run(main)
