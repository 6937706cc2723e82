"""Measure the engine `openvino-int8` beside `openvino`: the bare forward pass, the accuracy, and a served version.

    python benchmarks/int8.py forward --model cifar10/1
    python benchmarks/int8.py serve --model cifar10/1 --images photos/

The version was promoted here, so that both engines are measured and allowed. `forward`: passes of 1 and of 32 images
by one thread, in turns, with the pause of a replica before each. The accuracies are those that the promotion measured
on the whole split `val`. `serve`: one replica under a closed loop of each number of connections, one engine after the
other in each round. The results go to OUTPUT/int8/PART-MODEL-CPU.json, and the page OUTPUT/int8.md is rebuilt. The last
line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from harness import results_page
from harness.results_page import Document, Row, median, ratio, table
from harness.serving_peers import raycls_server

from raycls import command, machine, progress, registry
from raycls.benchmark.images import write_images
from raycls.benchmark.load import Load, LoadGenerator
from raycls.config import Engine
from raycls.data.versions import open_by_fingerprint
from raycls.engines import build as engines
from raycls.engines.choice import PAUSE_S
from raycls.errors import UsageError
from raycls.models.card import load_card
from raycls.registry import ModelVersion

RESULTS = Path(__file__).parent / "results"
ENGINES: tuple[Engine, ...] = ("openvino", "openvino-int8")  # today's, and the new one
COUNTS = (1, 32)  # images in a pass
CONNECTIONS = (1, 8, 64)
WARM_UP, WARM_UP_S = 5, 1.0
IMAGES = 1000  # that are sent without --images
HEAD = """# int8

Made by `python benchmarks/int8.py`. `openvino` computes in bfloat16 where the CPU multiplies it in hardware,
`openvino-int8` in int8. A factor is the median of the rounds' ratios, with the smallest and largest.
"""


def forward(version: ModelVersion, options: argparse.Namespace) -> Iterator[Document]:
    """Yield the document of the bare passes after each round of `options.passes` passes of both."""
    directory = registry.checkpoint(version)
    card = load_card(directory)
    val = open_by_fingerprint(*card.learned_from).images("val")
    runs = {engine: engines.load(engine, directory, "cpu", threads=1) for engine in ENGINES}
    arguments = {
        **_described(version),
        "val": len(val),
        "accuracy": {timing["engine"]: timing["accuracy"] for timing in version.engine_timings},
    }
    rows: list[Row] = []
    for turn in range(options.rounds):
        for count in COUNTS:
            batch = np.resize(val[:count], (count, *val.shape[1:]))
            times: dict[Engine, list[float]] = {engine: [] for engine in ENGINES}
            for number in range(WARM_UP + options.passes):
                for engine, run in runs.items():
                    time.sleep(PAUSE_S)
                    began = time.perf_counter()
                    run(batch)
                    if number >= WARM_UP:
                        times[engine].append(1000 * (time.perf_counter() - began))
            rows += [
                {"round": turn, "engine": engine, "count": count, "ms": statistics.median(found)}
                for engine, found in times.items()
            ]
        yield results_page.document(_part("forward", version), arguments, rows)


def serve(version: ModelVersion, options: argparse.Namespace) -> Iterator[Document]:
    """Yield the document of the served version after each round."""
    card = load_card(registry.checkpoint(version))
    arguments = {**_described(version), "seconds": options.seconds}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        images = options.images or Path(folder)
        if options.images is None:
            write_images(open_by_fingerprint(*card.learned_from), images, IMAGES)
        for turn in range(options.rounds):
            for engine in ENGINES if turn % 2 else ENGINES[::-1]:
                with (
                    raycls_server(version, engine, options.config, 1) as url,
                    LoadGenerator(url, images) as generator,
                ):
                    for connections in CONNECTIONS:
                        load = Load(
                            connections=connections, seconds=options.seconds, warmup_seconds=WARM_UP_S
                        )
                        sample = generator.measure(load)
                        rows.append(
                            {
                                "round": turn,
                                "engine": engine,
                                "connections": connections,
                                "requests_per_s": sample.requests_per_s,
                                "p50_ms": sample.p50_ms,
                                "p99_ms": sample.p99_ms,
                                "failed": sum(sample.errors.values()),
                            }
                        )
            yield results_page.document(_part("serve", version), arguments, rows)


def _part(part: str, version: ModelVersion) -> str:
    """Return the document's name, with the CPU's: what int8 gains depends on it most of all."""
    return f"{part}-{version.name}-{re.sub(r'[^a-z0-9]+', '-', machine.hardware()['CPU'].lower()).strip('-')}"


def _described(version: ModelVersion) -> Row:
    card = load_card(registry.checkpoint(version))
    return {"model": version.reference, "network": card.network, "image_size": card.image_size}


def _pairs(rows: list[Row], **chosen: int) -> tuple[list[Row], list[Row]]:
    """Return the rows of both engines, one of each round."""
    kept = [row for row in rows if all(row[key] == value for key, value in chosen.items())]
    today, int8 = ([row for row in kept if row["engine"] == engine] for engine in ENGINES)
    return today, int8


def _name(document: Document) -> str:
    given = document["arguments"]
    cpu = document["hardware"]["CPU"]
    return f"{given['network']}, {given['image_size']} pixels ({given['model']}), {cpu}"


def _forward(documents: dict[str, Document]) -> str:
    lines, accuracies = [], []
    for document in documents.values():
        given = document["arguments"]
        for count in COUNTS:
            today, int8 = _pairs(document["rows"], count=count)
            factors = [one["ms"] / other["ms"] for one, other in zip(today, int8, strict=True)]
            lines.append(
                (
                    _name(document),
                    count,
                    *(f"{median(rows, 'ms'):.2f} ms" for rows in (today, int8)),
                    ratio(factors),
                    len(factors),
                )
            )
        accuracies.append(
            (
                _name(document),
                f"{given['val']:,}",
                *(f"{given['accuracy'][engine]:.2%}" for engine in ("reference", *ENGINES)),
            )
        )
    return (
        "## A bare forward pass, one thread\n\n"
        + table(("network, CPU", "images", *ENGINES, "faster by the factor", "rounds"), lines)
        + "\n## Accuracy on the whole split `val`\n\n"
        + table(("network, CPU", "images", "reference (float32)", *ENGINES), accuracies)
    )


def _serve(documents: dict[str, Document]) -> str:
    lines = []
    for document in documents.values():
        for connections in CONNECTIONS:
            today, int8 = _pairs(document["rows"], connections=connections)
            rates = [
                other["requests_per_s"] / one["requests_per_s"]
                for one, other in zip(today, int8, strict=True)
            ]
            lines.append(
                (
                    _name(document),
                    connections,
                    *(f"{median(rows, 'requests_per_s'):,.0f}" for rows in (today, int8)),
                    ratio(rates),
                    len(rates),
                    *(f"{median(rows, 'p99_ms'):.1f} ms" for rows in (today, int8)),
                    sum(row["failed"] for row in (*today, *int8)),
                )
            )
    header = (
        "network, CPU",
        "connections",
        *(f"{engine}, requests/s" for engine in ENGINES),
        "more by the factor",
        "rounds",
        *(f"{engine}, p99" for engine in ENGINES),
        "failed",
    )
    return "## One served replica\n\n" + table(header, lines)


PARTS = {"forward": (forward, _forward), "serve": (serve, _serve)}


def main(arguments: list[str]) -> None:
    """Measure, write the results and print them. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--model", help="NAME/VERSION (default: the latest champion)")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--passes", type=int, default=40, help="of each engine and batch size in a round")
    parser.add_argument("--seconds", type=float, default=3, help="length of each load")
    parser.add_argument("--images", type=Path, help="folder of images to send (default: the split test)")
    parser.add_argument("--config", type=Path, default=Path("serve_config.yaml"))
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the results")
    options = parser.parse_args(arguments)
    version = registry.resolve(options.model)
    if not all(version.allows(engine) for engine in ENGINES):
        raise UsageError(
            f"{version.reference} may not be served by both of {', '.join(ENGINES)}: promote it here, or allow it with "
            "--max-accuracy-loss"
        )
    measure, _ = PARTS[options.part]
    file, document = results_page.keep_last(options.output, "int8", measure(version, options))
    sections = {name: section for name, (_, section) in PARTS.items()}
    progress.say(f"wrote {file} and {results_page.write(options.output, 'int8', HEAD, sections)}")
    print(json.dumps(document))


if __name__ == "__main__":
    command.run(main)
