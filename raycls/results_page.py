"""A benchmark's page made of the parts that were measured so far, each with its own date and circumstances.

    file = keep(Path("benchmarks/results"), "training", document)             # results/training/NAME.json
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

from raycls import machine
from raycls.errors import ConfigError

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
    file.write_text(json.dumps(part, indent=1) + "\n")
    return file


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
            if doc["hardware"]["CPU"] != facts["CPU"]:
                others.setdefault(doc["hardware"]["CPU"], []).append(name)
        elsewhere = [("another CPU", f"{cpu}: {', '.join(names)}") for cpu, names in others.items()]
        parts.append(table(("", ""), [*facts.items(), *elsewhere]))
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
