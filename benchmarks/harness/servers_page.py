"""The results page that compares raycls with other servers, and with its goals.

    write(Path("benchmarks/results"))    # reads results/servers/*.json, writes results/servers.md

A ratio is the median over the rounds. A round measures every server once.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from harness import results_page
from harness.results_page import Document, Row, Section, ratio, table
from harness.serving_peers import CONNECTIONS, RAYCLS, SHARES

HEAD = """\
# raycls compared with other servers

All servers have the same weights and get the same images. One server at a time runs, on the same cores as the load
generator. A round measures every server once, and a value is the median over the rounds. Each peer is a program in
`benchmarks/peers/serving`, written as its own documentation recommends, with PyTorch in float32. `engine reference` is
raycls with PyTorch in float32: it separates the effect of the server from the effect of the engine. raycls's own client
sent the open loops, at 50% and 80% of the peak that it measured for the same server. Before the measurement, each
server had to classify 50 images as the model does.
"""


class Goal(NamedTuple):
    """A goal on two cores, for small images and for photographs. least: the goal is a minimum, not a maximum."""

    name: str
    small: float
    photographs: float
    figures: Callable[[list[Row]], list[float]]  # returns one value for each round
    least: bool = True


def best(rows: list[Row], server: str, count: int | None = None) -> list[float]:
    """Return the peak requests/s of the closed loops, for each round.

    count is the number of replicas or workers; None takes the best number.
    """
    found: dict[int, float] = {}
    for row in rows:
        if row.get("server") == server and "connections" in row and count in (None, row["count"]):
            found[row["round"]] = max(found.get(row["round"], 0.0), row["requests_per_s"])
    return [found[turn] for turn in sorted(found)]


def _against(server: str, count: int | None = None) -> Callable[[list[Row]], list[float]]:
    return lambda rows: _ratios(best(rows, RAYCLS), best(rows, server, count))


def _ratios(ours: list[float], theirs: list[float]) -> list[float]:
    return [mine / other for mine, other in zip(ours, theirs, strict=True)] if theirs else []


def _bounds(rows: list[Row], key: str) -> list[float]:
    return [row[key] for row in rows if "bound" in row]


def _of_the_bound(rows: list[Row]) -> list[float]:
    return _ratios(best(rows, RAYCLS), _bounds(rows, "images_per_s"))


def _beyond_the_forward_pass(rows: list[Row]) -> list[float]:
    """Return p50 of one replica at one connection minus the forward pass, ms, for each round."""
    own = [
        row["p50_ms"]
        for row in rows
        if row.get("server") == RAYCLS and row["count"] == 1 and row.get("connections") == 1
    ]
    return [p50 - bare for p50, bare in zip(own, _bounds(rows, "one_ms"), strict=True)]


def _tail_at_half_load(rows: list[Row]) -> list[float]:
    """Return p99 / p50 at half load, for each round, of the replica count with the highest peak."""
    count = 1 if statistics.median(_two_against_one(rows)) < 1 else 2
    half = [
        row
        for row in rows
        if row.get("server") == RAYCLS and row["count"] == count and row.get("share") == SHARES[0]
    ]
    return [row["p99_ms"] / row["p50_ms"] for row in half]


def _two_against_one(rows: list[Row]) -> list[float]:
    return _ratios(best(rows, RAYCLS, 2), best(rows, RAYCLS, 1))


GOALS = (
    Goal("requests/s / those of FastAPI + uvicorn, 2 workers", 3.5, 1.5, _against("FastAPI + uvicorn", 2)),
    Goal("requests/s / those of LitServe, best number of workers", 2.5, 1.4, _against("LitServe")),
    Goal("requests/s / those of BentoML, best number of workers", 4, 1.5, _against("BentoML")),
    Goal(
        "requests/s / those of `mlflow models serve`, best number of workers",
        4,
        1.5,
        _against("mlflow models serve"),
    ),
    Goal(
        "requests/s / those of Ray Serve with its defaults, best number of replicas",
        9,
        1.5,
        _against("Ray Serve as it comes"),
    ),
    Goal("requests/s / the bound: bare processes that decode and classify", 0.55, 0.85, _of_the_bound),
    Goal("p50 at one connection minus the forward pass, ms", 1.5, 4, _beyond_the_forward_pass, least=False),
    Goal("p99 / p50 at half load", 4, 3, _tail_at_half_load, least=False),
    Goal("requests/s of two replicas / those of one", 1.35, 1.7, _two_against_one),
)


def write(results: Path) -> Path:
    """Rebuild the page and return its path."""
    return results_page.write(results, "servers", HEAD, SECTIONS)


def _section(name: str, title: str) -> Section:
    def section(documents: dict[str, Document]) -> str:
        (document,) = documents.values()
        rows, used = document["rows"], document["arguments"]
        setting = (
            f"`{used['network']}` at {used['image_size']}×{used['image_size']}, served by engine {used['engine']}; "
            f"{1 + max(row['round'] for row in rows)} rounds, {used['seconds']:g} s a load, {document['date']} UTC."
        )
        return f"## {title}\n\n{setting}\n\n{_goals(rows, name)}\n{_servers(rows)}"

    return section


def _goals(rows: list[Row], name: str) -> str:
    lines = []
    for goal in GOALS:
        figures, wanted = goal.figures(rows), getattr(goal, name)
        if figures:
            middle = statistics.median(figures)
            met = middle >= wanted if goal.least else middle <= wanted
            sign = "≥" if goal.least else "≤"
            lines.append((goal.name, f"{sign} {wanted:g}", ratio(figures), "met" if met else "missed"))
    return table(("goal on two cores", "", "measured", ""), lines)


def _servers(rows: list[Row]) -> str:
    lines = []
    pairs = dict.fromkeys((row["server"], row["count"]) for row in rows if "server" in row)
    for server, count in pairs:
        own = [row for row in rows if (row.get("server"), row.get("count")) == (server, count)]
        loops = {key: [row for row in own if row.get("connections") == key] for key in CONNECTIONS}
        opens = {key: [row for row in own if row.get("share") == key] for key in SHARES}
        each = [f"{_middle(loop, 'requests_per_s'):,.0f}" for loop in loops.values()]
        latencies = [f"{_middle(loops[1], key):.1f}" for key in ("p50_ms", "p99_ms")]
        latencies += [f"{_middle(opens[share], key):.1f}" for share in SHARES for key in ("p50_ms", "p99_ms")]
        lines.append((server, count, *each, *latencies, sum(row["failed"] for row in own)))
    middle = statistics.median(_bounds(rows, "images_per_s"))
    lines.append(
        ("bare processes, one per core", "", f"{middle:,.0f} images/s", *[""] * (len(CONNECTIONS) + 6))
    )
    header = (
        "server", "replicas or workers",
        *(f"requests/s at {count}" for count in CONNECTIONS), "p50 ms at 1", "p99",
        *(f"{word} at {share:.0%}" for share in SHARES for word in ("p50", "p99")), "failed",
    )  # fmt: skip
    clients = sorted({row["client"] for row in rows if "connections" in row})
    return f"{table(header, lines)}\n{' and '.join(clients)} sent the closed loops.\n"


def _middle(rows: list[Row], key: str) -> float:
    values = [row[key] for row in rows if row[key] is not None]
    return statistics.median(values) if values else float("nan")


SECTIONS: dict[str, Section] = {
    "small": _section("small", "Small images"),
    "photographs": _section("photographs", "Photographs"),
}
