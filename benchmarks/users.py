"""Measure what users with think time see: Locust's users against one, two and three replicas.

    python benchmarks/users.py                                # the champion; a simulated forward pass of 45 ms an image
    python benchmarks/users.py --users 10,50 --replicas 1,2

deploy/locustfile.py is run as it stands, without a page. A hundred users who think for one to three seconds do not load
the real network, so that its forward pass is a sleep. The results go to OUTPUT/locust/users.json and OUTPUT/locust.md
(default: benchmarks/results). The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import results_page
from harness.results_page import Document, Section, table
from harness.served_copy import Server, stage

from raycls import command, progress
from raycls.errors import BenchmarkError, UsageError

HERE = Path(__file__).parent
ROOT = HERE.parent
FORWARD_MS = 45
SECONDS, SPAWN_S = 30, 5  # of a measurement; in which all users come, and which do not count


def configuration(folder: Path) -> Path:
    """Return a serve_config.yaml whose forward pass sleeps."""
    text = (ROOT / "serve_config.yaml").read_text()
    place = "      threads: 1"
    if place not in text:
        raise BenchmarkError("serve_config.yaml has another form: adapt benchmarks/users.py")
    path = folder / "serve_config.yaml"
    path.write_text(text.replace(place, f"      simulate_forward_ms: {FORWARD_MS}\n{place}", 1))
    return path


def measure(server: Server, users: int, replicas: int, seconds: int) -> dict[str, Any]:
    """Run Locust once and return its figures, and the share of the cores that it took itself."""
    with tempfile.TemporaryDirectory() as folder:
        before = _cpu_seconds()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "locust", "-f", str(ROOT / "deploy" / "locustfile.py")),
                *("--host", server.url, "--pictures", str(server.images), "--headless", "--reset-stats"),
                *("--users", str(users), "--spawn-rate", str(users / SPAWN_S)),
                *("--run-time", f"{seconds + SPAWN_S}s", "--csv", f"{folder}/run", "--only-summary"),
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        used = (_cpu_seconds() - before) / (seconds + SPAWN_S) / (os.cpu_count() or 1)
        try:
            rows = list(csv.DictReader(Path(f"{folder}/run_stats.csv").read_text().splitlines()))
        except FileNotFoundError:
            raise BenchmarkError(f"Locust failed: {done.stderr[-1000:]}") from None
    (total,) = [row for row in rows if row["Name"] == "Aggregated"]
    return {
        "users": users,
        "replicas": replicas,
        "requests": int(total["Request Count"]),
        "failures": int(total["Failure Count"]),
        "requests_per_s": float(total["Requests/s"]),
        "median_ms": float(total["Median Response Time"]),
        "p95_ms": float(total["95%"]),
        "locust_share": used,
    }


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _section(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    asked, rows = document["arguments"], document["rows"]
    lines = [
        (
            str(row["users"]),
            str(row["replicas"]),
            f"{row['requests_per_s']:.1f}",
            f"**{row['median_ms']:.0f}**",
            f"{row['p95_ms']:.0f}",
            f"{row['failures']:,} of {row['requests']:,}",
            f"{100 * row['locust_share']:.0f}%",
        )
        for row in rows
    ]
    header = (
        "users",
        "replicas",
        "requests/s",
        "median, ms",
        "p95, ms",
        "failures",
        "Locust's share of the cores",
    )
    most = 1000 / asked["forward_ms"]
    return (
        f"{document['date']} UTC, {asked['seconds']} s for each row. A forward pass sleeps {asked['forward_ms']} ms "
        f"for each image, so that one replica answers at most {most:.0f} images/s.\n\n"
        f"{table(header, lines)}"
    )


HEAD = """\
# Users with think time

Each of Locust's users sends a picture, waits for the answer, and thinks for one to three seconds:
`deploy/locustfile.py` as it stands, on the machine that serves.
"""
SECTIONS: dict[str, Section] = {"users": _section}


def _numbers(text: str) -> Sequence[int]:
    try:
        found = [int(number) for number in text.split(",")]
    except ValueError:
        raise UsageError(f"{text} is not a list of whole numbers like 1,2,3") from None
    if min(found) < 1:
        raise UsageError(f"{text}: the numbers begin with 1")
    return found


def main(arguments: list[str]) -> None:
    """Serve, measure, write the results and print them. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="NAME, NAME@ALIAS or NAME/VERSION (default: the latest champion)")
    parser.add_argument("--users", default="10,50,100", help="numbers of users (default: 10,50,100)")
    parser.add_argument("--replicas", default="1,2,3", help="numbers of replicas (default: 1,2,3)")
    parser.add_argument("--seconds", type=int, default=SECONDS, help=f"of each row (default: {SECONDS})")
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder for the results")
    options = parser.parse_args(arguments)
    users, replicas = _numbers(options.users), _numbers(options.replicas)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for count in replicas:
            with stage(options.model, configuration(Path(folder)), replicas=count) as server:
                for many in users:
                    with progress.bar(f"{many} users, {count} replicas"):
                        rows.append(measure(server, many, count, options.seconds))
    rows.sort(key=lambda row: (row["users"], row["replicas"]))
    asked = {"seconds": options.seconds, "forward_ms": FORWARD_MS}
    document = results_page.document("users", asked, rows)
    file = results_page.keep(options.output, "locust", document)
    page = results_page.write(options.output, "locust", HEAD, SECTIONS)
    progress.say(f"wrote {file} and {page}")
    print(json.dumps(document))


if __name__ == "__main__":
    command.run(main)
