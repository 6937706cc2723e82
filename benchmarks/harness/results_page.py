"""A benchmark's page made of the parts that were measured so far, each with its own date and circumstances.

    file = keep(Path("benchmarks/results"), "training", document)             # results/training/NAME.json
    file = keep_last(Path("benchmarks/results"), "training", documents)       # of one that grows while it is measured
    write(Path("benchmarks/results"), "training", HEAD, SECTIONS)             # results/training.md, of all of them

A document is {"name", "date", "arguments", "rows", "hardware", "versions"}: rows of plain numbers. A section makes
Markdown of the documents whose names begin with its own. A figure without its part's file is not on the page.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raycls import machine, progress
from raycls.errors import BenchmarkError, ConfigError

Row = dict[str, Any]
Document = dict[str, Any]
Section = Callable[[dict[str, Document]], str]


def seeds(text: str) -> list[int]:
    """The seeds on a command line, like 0,1,2. Raises ConfigError."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {text} is not a list of whole numbers like 0,1,2") from None


def document(name: str, arguments: dict[str, Any], rows: list[Row]) -> Document:
    """One part's results, with when and on what they were measured."""
    return {
        "name": name,
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "arguments": arguments,
        "rows": rows,
        "hardware": machine.hardware(),
        "versions": machine.versions(),
    }


def keep(results: Path, kind: str, part: Document) -> Path:
    """Write the part's file, in place of an earlier one of this name."""
    file = results / kind / f"{part['name']}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_text(part))
    return file


def _text(part: Document) -> str:
    return json.dumps(part, indent=1) + "\n"


def keep_last(results: Path, kind: str, growing: Iterable[Document]) -> tuple[Path, Document]:
    """Write the last of these as `keep` does; until it has come, each lies beside an earlier file of the name.

    So what is broken off leaves its rows in NAME.partial, and the figures of the time before as they were. Raises
    BenchmarkError where nothing is measured.
    """
    partial = None
    for part in growing:
        partial = results / kind / f"{part['name']}.partial"
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(_text(part))
        progress.say(f"{len(part['rows'])} rows so far in {partial}")
    if partial is None:
        raise BenchmarkError("nothing was measured: ask for one round, pair or seed at least")
    partial.unlink()
    return keep(results, kind, part), part


def write(results: Path, kind: str, head: str, sections: Mapping[str, Section]) -> Path:
    """Make the page anew of every part's file."""
    files = sorted((results / kind).glob("*.json"))
    documents = {file.stem: json.loads(file.read_text()) for file in files}
    page = results / f"{kind}.md"
    page.write_text(markdown(documents, head, sections))
    return page


def markdown(documents: dict[str, Document], head: str, sections: Mapping[str, Section]) -> str:
    parts = [head]
    for prefix, section in sections.items():
        found = {name: doc for name, doc in documents.items() if name.partition("-")[0] == prefix}
        if found:
            parts.append(section(found))
    newest = max(documents.values(), key=lambda doc: doc["date"], default=None)
    if newest:
        facts = {**newest["hardware"], **newest["versions"]}
        others: dict[str, list[str]] = {}
        for name, doc in documents.items():
            if not facts["CPU"].startswith(doc["hardware"]["CPU"]):  # older files do not tell the model
                others.setdefault(doc["hardware"]["CPU"], []).append(name)
        elsewhere = [("another CPU", f"{cpu}: {', '.join(names)}") for cpu, names in others.items()]
        parts.append(table(("", "of the newest measurement"), [*facts.items(), *elsewhere]))
    return "\n".join(parts)


def table(header: tuple[str, ...], rows: Iterable[Iterable[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def median(rows: list[Row], key: str) -> float:
    return statistics.median(row[key] for row in rows)


def mean_and_spread(values: Iterable[float]) -> tuple[float, float | None]:
    """The mean, and the sample standard deviation of more than one."""
    values = list(values)
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def share(mean: float | None, spread: float | None = None) -> str:
    return f"{mean:.2%}" + (f" ± {100 * spread:.2f}" if spread is not None else "")


def ratio(ratios: list[float]) -> str:
    return f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"
