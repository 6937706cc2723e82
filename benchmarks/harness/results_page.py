"""Build a results page (Markdown) from the documents (JSON) of its parts, each measured at its own time.

    file = keep(Path("benchmarks/results"), "training", document)             # results/training/NAME.json
    file = keep_last(Path("benchmarks/results"), "training", documents)       # a document that grows row by row
    write(Path("benchmarks/results"), "training", HEAD, SECTIONS)             # results/training.md from all documents

A document is {"name", "date", "arguments", "rows", "hardware", "versions"}. Its rows are plain numbers. A section turns
the documents whose names begin with its own name into Markdown. Every number on a page comes from a document.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scipy import stats

from raycls import machine, progress
from raycls.errors import BenchmarkError, ConfigError

Row = dict[str, Any]
Document = dict[str, Any]
Section = Callable[[dict[str, Document]], str]


def seeds(text: str) -> list[int]:
    """Return the seeds of a command-line argument like 0,1,2. Raises ConfigError."""
    try:
        return [int(number) for number in text.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds {text} is not a list of whole numbers like 0,1,2") from None


def document(name: str, arguments: dict[str, Any], rows: list[Row]) -> Document:
    """Return one part's document: its rows, with the present time, machine and versions."""
    return {
        "name": name,
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "arguments": arguments,
        "rows": rows,
        "hardware": machine.hardware(),
        "versions": machine.versions(),
    }


def keep(results: Path, kind: str, part: Document) -> Path:
    """Write a part's document to its file, in place of an older one, and return the file."""
    file = results / kind / f"{part['name']}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(_text(part))
    return file


def _text(part: Document) -> str:
    return json.dumps(part, indent=1) + "\n"


def keep_last(results: Path, kind: str, growing: Iterable[Document]) -> tuple[Path, Document]:
    """Write each document to NAME.partial, and the last one as `keep` does.

    An interrupted measurement leaves its rows in NAME.partial and does not change the older NAME.json. Raises
    BenchmarkError if there is no document.
    """
    partial = None
    for part in growing:
        partial = results / kind / f"{part['name']}.partial"
        partial.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(_text(part))
        progress.say(f"{len(part['rows'])} rows so far in {partial}")
    if partial is None:
        raise BenchmarkError("nothing was measured: ask for at least one round, pair or seed")
    partial.unlink()
    return keep(results, kind, part), part


def write(results: Path, kind: str, head: str, sections: Mapping[str, Section]) -> Path:
    """Rebuild the page from every part's file, and return the page's path."""
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
            if not facts["CPU"].startswith(doc["hardware"]["CPU"]):  # some files lack the CPU's model number
                others.setdefault(doc["hardware"]["CPU"], []).append(name)
        elsewhere = [("another CPU", f"{cpu}: {', '.join(names)}") for cpu, names in others.items()]
        parts.append(table(("", "newest measurement"), [*facts.items(), *elsewhere]))
    return "\n".join(parts)


def table(header: tuple[str, ...], rows: Iterable[Iterable[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(str(cell) for cell in line)} |\n" for line in lines)


def median(rows: list[Row], key: str) -> float:
    return statistics.median(row[key] for row in rows)


def mean_and_spread(values: Iterable[float]) -> tuple[float, float | None]:
    """Return the mean, and the sample standard deviation (None for a single value)."""
    values = list(values)
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def share(mean: float | None, spread: float | None = None) -> str:
    return f"{mean:.2%}" + (f" ± {100 * spread:.2f}" if spread is not None else "")


def ratio(ratios: list[float]) -> str:
    return f"**{statistics.median(ratios):.2f}** ({min(ratios):.2f} to {max(ratios):.2f})"


def within(values: list[float]) -> str:
    """Return the median with its 95% interval, from order statistics; without it where there are fewer than six values.

    Between the k-th smallest and the k-th largest of n values lies the median with the probability
    1 - 2 * binom.cdf(k - 1, n, 0.5): https://en.wikipedia.org/wiki/Median#Confidence_interval.
    """
    ordered, count = sorted(values), len(values)
    k = int(stats.binom.ppf(0.025, count, 0.5))
    if k < 1:
        return f"**{statistics.median(values):.3f}**"
    return f"**{statistics.median(values):.3f}** ({ordered[k - 1]:.3f} to {ordered[-k]:.3f})"
