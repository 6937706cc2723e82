"""The sections of results/resilience.md, from the documents of benchmarks/resilience.py."""

from __future__ import annotations

from harness.results_page import Document, Section, table

HEAD = """\
# Resilience

How many requests fail while something happens to the server. Two replicas serve the champion. One client process on the
same machine sends the load: an open loop where the table names a rate. Every answer except status 200 counts as failed.
"""
GOALS = {
    "update": "0",
    "broken": "0; the old version keeps serving",
    "replica": "0",
    "hang": "only requests inside the replica; replaced within 10 s",
    "controller": "0",
    "overload": "429 at once; at least 90% of the peak; p99 at most 3 ×; no timeout",
    "memory": "growth at most 5%",
}


def _section(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    lines = [
        (
            line["disturbance"],
            line["load"],
            GOALS[document["name"]],
            f"{line['answered'] + sum(line['errors'].values()):,}",
            ", ".join(f"{kind}: {count:,}" for kind, count in line["errors"].items()) or "**0**",
            ", ".join("—" if ms is None else f"{ms:.0f}" for ms in (line["p99_ms"], line["max_ms"])),
            line["result"],
        )
        for line in document["rows"]
    ]
    header = (
        "what happens",
        "load",
        "goal for failures",
        "requests",
        "failed",
        "p99 and maximum, ms",
        "result",
    )
    return f"## {document['name']}\n\n{document['date']} UTC.\n\n{table(header, lines)}"


SECTIONS: dict[str, Section] = dict.fromkeys(GOALS, _section)
