"""Requests/s and latency of a served model by number of replicas, against the single replica.

    python benchmarks/serving.py --replicas 1,2                              # serves the champion, each count in turn
    python benchmarks/serving.py --url http://127.0.0.1:8000 --images photos/   # a server that already runs

A table goes to stderr, a page with its plot to --output (benchmarks/results/serving.md), and the last line of stdout
is one JSON document. The load generator runs on the same machine and takes its share of the cores: the table says
how much. Measuring is raycls/serving/benchmark/'s; this parses and prints.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from raycls.config import validated
from raycls.errors import RayclsError, UsageError
from raycls.progress import say
from raycls.serving.benchmark.results import Plan

RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str]) -> None:
    """Parse, measure, write, print. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--replicas", default="1,2", help="replica counts; the first is the 1.0 (default: 1,2)"
    )
    parser.add_argument("--connections", default="1,8,32", help="closed loops (default: 1,8,32)")
    parser.add_argument(
        "--rates",
        default="auto",
        help="open loops, requests/s like 200,400; none; auto (default): 50%% and 80%% of peak",
    )
    parser.add_argument("--seconds", default="3", help="the counted part of a repeat (default: 3)")
    parser.add_argument("--repeats", default="3", help="of each load (default: 3)")
    parser.add_argument(
        "--model", help="NAME, NAME@ALIAS or NAME/VERSION (default: the champion promoted last)"
    )
    parser.add_argument(
        "--config", type=Path, default=Path("serve_config.yaml"), help="the Serve configuration"
    )
    parser.add_argument("--port", type=int, help="HTTP port (default: the configuration's)")
    parser.add_argument(
        "--images", type=Path, help="folder of images (default: PNGs of the model's test split)"
    )
    parser.add_argument("--url", help="measure the server that answers here, and deploy nothing")
    parser.add_argument("--allow-remote", action="store_true", help="let --url be another machine's")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for page and plot")
    parser.add_argument("--json", action="store_true", help="no table")
    options = parser.parse_args(arguments)

    rates = {"auto": "auto", "none": ()}.get(options.rates, options.rates.split(","))
    plan = validated(
        Plan,
        {
            "replicas": options.replicas.split(","),
            "connections": options.connections.split(","),
            "rates": rates,
            "seconds": options.seconds,
            "repeats": options.repeats,
        },
    )
    if options.url and not options.images:
        raise UsageError("--url needs --images, a folder of images to send")

    from raycls.serving.benchmark import replicas, report  # seconds to import: wrong use is told before

    if options.url:
        results = replicas.run_at(options.url, plan, images=options.images, allow_remote=options.allow_remote)
    else:
        results = replicas.run(
            plan, model=options.model, config=options.config, port=options.port, images=options.images
        )
    if not options.json:
        report.print_table(results)
    for path in report.write(results, options.output):
        say(f"written: {path}")
    print(json.dumps(results.as_json()))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except RayclsError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
