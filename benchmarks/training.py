"""How fast and how well raycls trains: one part of the page at a time, each compared in turns within one call.

    python benchmarks/training.py presets --preset fast --seeds 0,1,2     # against epochs of the plain peer
    python benchmarks/training.py ray --pairs 5                           # the loop under Ray against bare processes
    python benchmarks/training.py workers --pairs 5                       # two workers against one, images/s
    python benchmarks/training.py agreement --seeds 0,1,2                 # and their accuracy
    python benchmarks/training.py memory
    python benchmarks/training.py levers --seeds 0,1,2                    # what each setting of `fast` is worth
    python benchmarks/training.py networks --dataset emotions --init cifar10/1

Results go to OUTPUT/training/PART.json (benchmarks/results), from which the page OUTPUT/training.md is made anew, and
one JSON document to the last line of stdout. What is broken off leaves what it has measured in PART.partial.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import results_page, training_page, training_parts
from harness.results_page import seeds

from raycls import command, progress
from raycls.data.packed import open_dataset

PEER = Path(__file__).parent / "peers" / "plain_cnn.py"
RESULTS = Path(__file__).parent / "results"


def measure(options: argparse.Namespace) -> Iterator[results_page.Document]:
    """One part's document after each of its rows; its name, its file's, and what it was asked for are in it."""
    part, dataset, seeds, pairs = options.part, options.dataset, options.seeds, options.pairs
    arguments: dict[str, Any] = {"dataset": dataset}
    if part == "presets":
        arguments |= {"preset": options.preset, "settings": options.set}
        rows = training_parts.presets(dataset, options.preset, seeds, PEER, options.set)
        name = f"presets-{options.preset}"
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
    """Parse, measure, write, print. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=list(training_page.SECTIONS))
    parser.add_argument("--dataset", default="cifar10", help="a prepared dataset (default: cifar10)")
    parser.add_argument("--preset", default="fast", help="of the part presets (default: fast)")
    parser.add_argument("--seeds", type=seeds, default=[0, 1, 2], help="one run each (default: 0,1,2)")
    parser.add_argument("--pairs", type=int, default=5, help="of ray and workers (default: 5)")
    parser.add_argument("--workers", type=int, default=2, help="of ray (default: 2)")
    parser.add_argument("--threads", type=int, default=1, help="of each worker of ray (default: 1)")
    parser.add_argument("--init", help="of networks: a model to fine-tune as well")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="of presets: change a setting"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args(arguments)
    open_dataset(options.dataset)

    file, document = results_page.keep_last(options.output, "training", measure(options))
    progress.say(f"written: {file}, {training_page.write(options.output)}")
    print(json.dumps(document))


if __name__ == "__main__":
    command.run(main)
