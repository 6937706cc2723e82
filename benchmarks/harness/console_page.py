"""The sections of results/console.md, from the documents of benchmarks/console.py."""

from __future__ import annotations

import statistics

from harness.results_page import Document, table, within

HEAD = """\
# The console

`benchmarks/console.py` made this page. A copy of the champion is served on two cores, which the browser, the load
generator and the people share. The people have a low priority, as their browsers have machines of their own.
"""


def _page(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    rows = document["rows"]
    times = sorted(row["ms"] for row in rows)
    lines = [
        ("until everything is there, ms", f"{statistics.median(times):.0f}", f"{times[-1]:.0f}", "≤ 300"),
        ("bytes with headers, KB", f"{rows[-1]['bytes'] / 1e3:.0f}", "", "≤ 400"),
        ("files", str(rows[-1]["files"]), "", ""),
    ]
    head = (f"figure, {len(rows)} loads with an empty cache", "median", "most", "goal")
    return f"## The first page\n\nMeasured {document['date']} (UTC).\n\n{table(head, lines)}"


def _rest(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    (row,) = document["rows"]
    lines = [
        (
            "memory of its own (USS), MB",
            f"{row['console_mb']:.0f}",
            f"{row['empty_mb']:.0f}",
            f"{row['console_mb'] - row['empty_mb']:.0f}",
            "≤ 60",
        ),
        (
            "CPU, % of a core",
            f"{100 * row['console_cores']:.2f}",
            f"{100 * row['empty_cores']:.2f}",
            f"{100 * (row['console_cores'] - row['empty_cores']):.2f}",
            "≤ 0.5",
        ),
    ]
    head = (
        "at rest for a minute, after its pages were looked at",
        "console",
        "empty replica",
        "more",
        "goal",
    )
    return f"## At rest\n\nMeasured {document['date']} (UTC).\n\n{table(head, lines)}"


def _clicking(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    rows = document["rows"]
    arms = {arm: {row["pair"]: row for row in rows if row["arm"] == arm} for arm in ("none", "five")}
    pairs = sorted(arms["none"].keys() & arms["five"].keys())
    lines = []
    for measure in ("p50_ms", "p99_ms"):
        values = [[arms[arm][pair][measure] for pair in pairs] for arm in ("none", "five")]
        ratios = [five / none for none, five in zip(*values, strict=True)]
        medians = [f"{statistics.median(each):.2f}" for each in values]
        goal = "≤ 1.2" if measure == "p99_ms" else ""
        lines.append((measure.replace("_", ", "), len(pairs), *medians, within(ratios), goal))
    clicks, failed = (sum(row[name] for row in rows) for name in ("clicks", "failed_clicks"))
    errors = sum(row["errors"] for row in rows)
    head = ("250 predictions/s", "pairs", "nobody", "five people", "ratio", "goal")
    facts = (
        f"Measured {document['date']} (UTC): {clicks:,} clicks, {failed} failed; {errors} predictions failed."
    )
    return f"## Predictions while people click\n\n{facts}\n\n{table(head, lines)}"


def _upload(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    (row,) = document["rows"]
    lines = [
        ("first progress, s", f"{row['first_progress_s']:.2f}", "≤ 1"),
        ("longest time without progress, s", f"{row['longest_without_progress_s']:.2f}", "≤ 1"),
        ("sent after, s", f"{row['sent_s']:.1f}", ""),
        ("checked after, s", f"{row['seconds']:.1f}", ""),
        ("memory that the console took, MB", f"{row['console_grew_mb']:.0f}", "flat"),
        ("memory that the control plane took, MB", f"{row['control_grew_mb']:.0f}", "flat"),
    ]
    facts = (
        f"Measured {document['date']} (UTC): a zip of {row['bytes'] / 1e6:.0f} MB, {row['taken']:,} pictures taken, "
        f"{row['refused']} refused."
    )
    return f"## A zip of 10,000 pictures\n\n{facts}\n\n{table(('figure', 'measured', 'goal'), lines)}"


def _registry(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    lines = [
        (
            f"`{row['page']}`",
            f"{row['median_s']:.2f}",
            f"{row['max_s']:.2f}",
            f"{row['bytes'] / 1e3:.0f}",
            "≤ 1",
        )
        for row in document["rows"]
    ]
    head = ("page", "median, s", "most, s", "KB", "goal, s")
    facts = f"Measured {document['date']} (UTC): 5,000 versions, 2,000 runs, a study of 1,000 trials."
    return f"## Large stores\n\n{facts}\n\n{table(head, lines)}"


SECTIONS = {"page": _page, "rest": _rest, "clicking": _clicking, "upload": _upload, "registry": _registry}
