"""The results page of benchmarks/drift.py, from the documents of its parts.

drift_page.write(Path("benchmarks/results"))
"""

from __future__ import annotations

import statistics
from pathlib import Path

from harness import results_page
from harness.results_page import Document, Row, table

HEAD = """# Drift: cost, false alarms and what is found

`benchmarks/drift.py` made this page. A window is a number of requests that `raycls/drift/` compares with the
model's reference. A window alarms if any feature alarms.
"""


def cost_section(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    lines = []
    for side, batch in dict.fromkeys((row["side"], row["batch"]) for row in document["rows"]):
        rows = [row for row in document["rows"] if (row["side"], row["batch"]) == (side, batch)]
        update, pass_us = (
            statistics.median(row[name] for row in rows) for name in ("update_us", "forward_us")
        )
        shares = [row["update_us"] / row["forward_us"] for row in rows]
        spread = f"{min(shares):.1%} to {max(shares):.1%}"
        lines.append(
            (
                side,
                batch,
                f"{update:.1f}",
                f"{pass_us:,.0f}",
                f"**{statistics.median(shares):.1%}** ({spread})",
            )
        )
    head = (
        "image side, pixels",
        "batch",
        "update, µs an image",
        "forward pass, µs an image",
        "share (goal: 3%)",
    )
    facts = (
        f"Measured {document['date']}, n={len(rows)}: CPU time on one thread. The forward pass is OpenVINO's."
    )
    return f"## Cost\n\n{facts}\n\n{table(head, lines)}"


def alarms_section(documents: dict[str, Document]) -> str:
    text = ""
    for document in documents.values():
        given, rows = document["arguments"], document["rows"]
        shown = f", images of {given['dataset']}" if given["dataset"] else ""
        windows = list(dict.fromkeys(row["window"] for row in rows))
        found: dict[tuple[str, float], dict[int, Row]] = {}
        for row in rows:
            found.setdefault((row["change"], row["share"]), {})[row["window"]] = row
        lines = []
        for (change, share), cells in found.items():
            last = cells[max(cells)]
            features = ", ".join(f"{name} {count}" for name, count in last["features"].items())
            counts = [f"{cells[size]['alarmed']} of {cells[size]['windows']}" for size in windows]
            lines.append((change, f"{share:.0%}" if share else "–", *counts, features or "–"))
        head = (
            "images",
            "share changed",
            *(f"{size:,} requests" for size in windows),
            "features, largest window",
        )
        text += (
            f"## Alarms: {given['model']}{shown}\n\nMeasured {document['date']}.\n\n{table(head, lines)}\n"
        )
    return text


def write(output: Path) -> Path:
    """Rebuild OUTPUT/drift.md and return its path."""
    return results_page.write(output, "drift", HEAD, {"cost": cost_section, "alarms": alarms_section})
