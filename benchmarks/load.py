"""Send load to one HTTP classifier: closed loops of N connections, or open loops at R requests/s.

    python benchmarks/load.py http://127.0.0.1:8000/predict --images photos/ --connections 8 --seconds 5

--images is a folder of images. If it has subfolders, their names are the true classes and the accuracy is measured.
The last line of stdout is one JSON document with a sample per load; raycls/benchmark/load.py explains the fields.
benchmarks/serving.py also measures replica counts, batch sizes and CPU shares.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from raycls import command, progress
from raycls.benchmark.load import Load, LoadGenerator
from raycls.config import validated


def main(arguments: list[str]) -> None:
    """Measure each load of the command line, one after another, and print the samples. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("url", help="URL of an endpoint that takes an image as the request's body")
    parser.add_argument("--images", type=Path, required=True, help="folder of image files")
    kind = parser.add_mutually_exclusive_group(required=True)
    kind.add_argument("--connections", help="closed loop: requests at a time, like 1,8,32")
    kind.add_argument("--rate", help="open loop: requests/s, like 200,400")
    parser.add_argument("--seconds", type=float, default=5, help="measured part of a load (default: 5)")
    parser.add_argument(
        "--warmup", type=float, default=1, help="seconds before the measured part (default: 1)"
    )
    parser.add_argument(
        "--timeout", type=float, default=10, help="seconds until a request counts as an error (default: 10)"
    )
    parser.add_argument("--allow-remote", action="store_true", help="allow a URL on another machine")
    options = parser.parse_args(arguments)

    common = {
        "seconds": options.seconds,
        "warmup_seconds": options.warmup,
        "timeout_seconds": options.timeout,
    }
    field, values = ("connections", options.connections) if options.connections else ("rate", options.rate)
    loads = [validated(Load, {field: value, **common}) for value in values.split(",")]
    samples = []
    with (
        LoadGenerator(options.url, options.images, allow_remote=options.allow_remote) as generator,
        progress.bar(f"measuring {options.url}", total=len(loads)) as bar,
    ):
        for load in loads:
            samples.append({field: getattr(load, field), **generator.measure(load).model_dump()})
            bar.advance()
    print(
        json.dumps({"benchmark": "load", "url": options.url, "seconds": options.seconds, "samples": samples})
    )


if __name__ == "__main__":
    command.run(main)
