"""Measure how pictures are scored in bulk. Writes results/scale.md.

    python benchmarks/scale.py score --model cifar10/1 --images small/ --pictures 300000 --name small
    python benchmarks/scale.py score --model photos/1 --images photos/ --pictures 20000 --name photographs
    python benchmarks/scale.py nodes --model cifar10/1 --images small/ --pictures 300000      # as root
    python benchmarks/scale.py kills --model cifar10/1 --images small/ --pictures 200000
    python benchmarks/scale.py kills --node --model cifar10/1 --images small/ --pictures 200000   # as root
    python benchmarks/scale.py memory --model cifar10/1 --images small/ --rows 1000000

Each needs a registered version, and a folder of pictures, which are repeated. `benchmarks/photographs.py` makes
photographs, and `write_images` in raycls/benchmark/images.py small PNGs of a dataset. Take so many pictures that an arm
runs for a minute: the actors of `raycls score` do not begin at once, and the last parts do not end at once. The last
line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import results_page, scale_kills, scale_nodes, scale_scoring
from harness.results_page import Document, median, ratio, table

from raycls import command, registry

RESULTS = Path(__file__).parent / "results"
HEAD = """# Pictures by the million

Made by `python benchmarks/scale.py score`, `nodes`, `kills` and `memory`. Training on shards has
[a page of its own](streaming.md).
"""
SCORING = """## Scoring, beside bare processes and a DataLoader loop

Each round scores the same files three times, in another order: with `raycls score`, with bare processes, one for each
core, which read, decode and classify with the same engine and write nothing, and a tenth of them with a DataLoader loop
in float32. Rates count from the first picture on; the start of `raycls score`, with Ray's, stands apart. The files are
in the kernel's memory. The goals: 0.9 of the bare processes; 1.5 times the loop with photographs, and 3 times with
small pictures; a start of at most 15 s.

"""
NODES = """## Two nodes

Two nodes of one core each against one, in turns. The nodes are namespaces that share the machine's files; the goal is
1.8. Ray's head and the driver have no core of their own: they take from both nodes, and with one node from neither.

"""
KILLS = """## Kills

`raycls score` with SIGKILL for its driver or for one of its actors, at random moments, or with the end of one of two
nodes. A driver that was killed is started again with the same command, and a node with the same `ray start`.

"""
MEMORY = """## Memory

A table of {rows:,} paths of {pictures:,} pictures. The memory that the driver and the actors hold alone (USS), and what
the whole machine has less than before, in MB.

"""


def scoring_section(documents: dict[str, Document]) -> str:
    header = ("pictures", "raycls/s", "bare/s", "ratio", "DataLoader/s", "ratio", "start, s", "rounds")
    lines = []
    for document in documents.values():
        rows = document["rows"]
        bare = [row["raycls_per_s"] / row["bare_per_s"] for row in rows]
        loop = [row["raycls_per_s"] / row["dataloader_per_s"] for row in rows]
        lines.append(
            (
                f"{document['arguments']['label']}, {rows[0]['pictures']:,} with {document['arguments']['engine']}",
                f"{median(rows, 'raycls_per_s'):,.0f}",
                f"{median(rows, 'bare_per_s'):,.0f}",
                ratio(bare),
                f"{median(rows, 'dataloader_per_s'):,.0f}",
                ratio(loop),
                f"{median(rows, 'raycls_start_s'):.1f}",
                len(rows),
            )
        )
    return SCORING + table(header, lines)


def nodes_section(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    rows = document["rows"]
    line = (
        f"{median(rows, 'nodes_1'):,.0f}",
        f"{median(rows, 'nodes_2'):,.0f}",
        ratio([row["nodes_2"] / row["nodes_1"] for row in rows]),
        len(rows),
    )
    return NODES + table(("one node, pictures/s", "two nodes", "ratio", "pairs"), [line])


def kills_section(documents: dict[str, Document]) -> str:
    header = ("pictures", "kills", "rows", "twice", "missing")
    lines = [
        (
            f"{row['pictures']:,}",
            ", ".join(f"{count} × {victim}" for victim, count in sorted(row["kills"].items())),
            f"{row['rows']:,}",
            row["twice"],
            row["missing"] + row["foreign"],
        )
        for document in documents.values()
        for row in document["rows"]
    ]
    return KILLS + table(header, lines)


def memory_section(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    rows = document["rows"]
    shown = rows[:: max(1, len(rows) // 12)]
    names = ("seconds", "parts", "driver_mb", "actors_mb", "machine_mb")
    lines = [tuple(f"{row[name]:,.0f}" for name in names) for row in shown]
    head = MEMORY.format(rows=document["arguments"]["rows"], pictures=document["arguments"]["pictures"])
    return head + table(("seconds", "parts", "driver", "actors", "machine"), lines)


SECTIONS = {
    "score": scoring_section,
    "nodes": nodes_section,
    "kills": kills_section,
    "memory": memory_section,
}


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = parser.add_subparsers(dest="part", required=True)
    for name, what in (
        ("score", "pictures/s beside bare processes and a DataLoader loop"),
        ("nodes", "two nodes of one core against one"),
        ("kills", "whether every picture is scored once"),
        ("memory", "the memory of a long scoring"),
    ):
        part = parts.add_parser(name, help=what)
        part.add_argument("--model", required=True, help="NAME, NAME@ALIAS or NAME/VERSION")
        part.add_argument("--images", type=Path, required=True, help="a folder of pictures")
        part.add_argument("--output", type=Path, default=RESULTS, help="folder of the page")
        if name == "memory":
            part.add_argument("--rows", type=int, default=1_000_000)
        else:
            part.add_argument("--pictures", type=int, default=20_000, help="files to score")
        if name == "score":
            part.add_argument("--name", default="small", help="of the table's row")
            part.add_argument("--rounds", type=int, default=5)
        if name == "nodes":
            part.add_argument("--pairs", type=int, default=3)
        if name == "kills":
            part.add_argument("--node", action="store_true", help="kill one of two nodes")
            part.add_argument("--kills", type=int, default=20)
            part.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    version = registry.resolve(given.model)
    measure = {"score": scored, "nodes": beside, "kills": killed, "memory": remembered}[given.part]
    _, document = results_page.keep_last(given.output, "scale", measure(version, given))
    results_page.write(given.output, "scale", HEAD, SECTIONS)
    print(json.dumps(document))


def scored(version: registry.ModelVersion, given: argparse.Namespace) -> Iterator[Document]:
    facts: dict[str, Any] = {
        "model": version.reference,
        "engine": registry.engine_to_serve(version),
        "label": given.name,
        "rounds": given.rounds,
    }
    with scale_scoring.pictures_like(given.images, given.pictures) as (copies, files):
        for rows in scale_scoring.rounds(version, copies, files, given.rounds):
            yield results_page.document(f"score-{given.name}", facts, list(rows))


def beside(version: registry.ModelVersion, given: argparse.Namespace) -> Iterator[Document]:
    facts = {"model": version.reference, "pictures": given.pictures}
    with scale_scoring.pictures_like(given.images, given.pictures) as (copies, _):
        for rows in scale_nodes.pairs(version.reference, copies, given.pairs):
            yield results_page.document("nodes", facts, list(rows))


def killed(version: registry.ModelVersion, given: argparse.Namespace) -> Iterator[Document]:
    with scale_scoring.pictures_like(given.images, given.pictures) as (copies, files):
        names = files.read_text().splitlines()
        if given.node:
            row = scale_nodes.node_killed(version.reference, copies, names, given.kills)
        else:
            row = scale_kills.killed(version.reference, copies, names, given.kills, given.seed)
    name = "kills-node" if given.node else "kills"
    yield results_page.document(name, {"model": version.reference, "seed": given.seed}, [row])


def remembered(version: registry.ModelVersion, given: argparse.Namespace) -> Iterator[Document]:
    pictures = sorted(str(path.resolve()) for path in given.images.rglob("*") if path.is_file())
    rows = scale_kills.watched(version.reference, pictures, given.rows)
    facts = {"model": version.reference, "rows": given.rows, "pictures": len(pictures)}
    yield results_page.document("memory", facts, rows)


if __name__ == "__main__":
    command.run(main)
