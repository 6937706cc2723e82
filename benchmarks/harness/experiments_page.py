"""The sections of results/experiments.md, from the documents of benchmarks/experiments.py."""

from __future__ import annotations

import statistics

from harness.results_page import Document, Row, Section, table, within

HEAD = """\
# Experiments on live traffic

`benchmarks/experiments.py` made this page. Two replicas serve the champion, on the same two cores as the load
generator. A ratio is the median of the pairs, with its 95% interval from order statistics. Every answer except status
200 counts as failed.
"""
MEASURES = {"requests_per_s": "requests/s at 100 connections", "p50_ms": "p50 at 1 connection"}


def _pairs(title: str, first: str, second: str, goal: str) -> Section:
    def section(documents: dict[str, Document]) -> str:
        (document,) = documents.values()
        rows = document["rows"]
        arms = {arm: {row["pair"]: row for row in rows if row["arm"] == arm} for arm in (first, second)}
        shared = sorted(arms[first].keys() & arms[second].keys())
        lines = []
        for measure, text in MEASURES.items():
            values = [[arms[arm][pair][measure] for pair in shared] for arm in (first, second)]
            # Above 1 is better: of latencies, the former divided by the latter.
            ratios = [
                old / new if measure == "p50_ms" else new / old for old, new in zip(*values, strict=True)
            ]
            medians = [f"{statistics.median(each):,.2f}" for each in values]
            lines.append((text, len(shared), *medians, within(ratios), goal))
        failed = sum(row.get("errors", 0) for row in rows)
        head = ("figure", "pairs", first, second, "speed of the latter, the former is 1", "goal")
        shares = "".join(_shares(row) for row in rows if row["arm"] == "shares")
        arguments = document["arguments"]
        facts = (
            f"Measured {document['date']} (UTC), dataset {arguments['dataset']}, preset {arguments['preset']}; "
            f"{failed} requests failed."
            + (
                f" before: commit {arguments['before']}; after: {arguments['after']}."
                if "before" in arguments
                else ""
            )
        )
        return f"## {title}\n\n{facts}{shares}\n\n{table(head, lines)}"

    return section


def _shares(row: Row) -> str:
    count, clients = row["challenger"], row["clients"]
    deviation = (clients / 4) ** 0.5
    return (
        f" Of {clients:,} clients, the challenger answered {count:,}: "
        f"{abs(count - clients / 2) / deviation:.1f} standard deviations from a half."
    )


def _changes(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    lines = [
        (
            row["experiments"],
            f"{row['answered'] + sum(row['errors'].values()):,}",
            _failed(row),
            f"{row['p99_ms']:.0f}, {row['max_ms']:.0f}",
            row["restarted"],
        )
        for row in document["rows"]
    ]
    head = ("experiments", "requests", "failed", "p99 and maximum, ms", "replicas restarted")
    title = "Start, two changes and end, 250 requests/s"
    return f"## {title}\n\nMeasured {document['date']} (UTC).\n\n{table(head, lines)}"


def _challengers(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    lines = [
        (
            row["challenger"],
            row["mode"],
            f"{row['answered'] + sum(row['errors'].values()):,}",
            _failed(row),
            f"{row['p99_ms']:.0f}, {row['max_ms']:.0f}",
            f"{row['seconds']:.1f}",
            row["reason"],
        )
        for row in document["rows"]
    ]
    head = ("the challenger", "mode", "requests", "failed", "p99 and maximum, ms", "ended after, s", "reason")
    facts = (
        f"Measured {document['date']} (UTC), 250 requests/s, all of them shadowed or half of them split, clients wait "
        "5 s. Goal: none fails, and the experiment ends within 10 s of the fault, or else of the challenger's first "
        "request."
    )
    return f"## Challengers that go wrong\n\n{facts}\n\n{table(head, lines)}"


def _failed(row: Row) -> str:
    return ", ".join(f"{kind}: {count:,}" for kind, count in row["errors"].items()) or "**0**"


SECTIONS: dict[str, Section] = {
    "cost": _pairs("Without an experiment, drift on", "before", "after", "≥ 0.97"),
    "split": _pairs("With `--split 0.5`", "none", "split", "≥ 0.85"),
    "changes": _changes,
    "challengers": _challengers,
}
