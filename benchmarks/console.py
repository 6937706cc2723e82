"""Measure what the console costs and how it answers: its first page, its process, predictions beside it, large stores.

    python benchmarks/console.py page          # the first page in Chromium, nothing cached
    python benchmarks/console.py rest          # memory and CPU beside those of an empty Serve replica
    python benchmarks/console.py clicking      # p99 of 250 predictions/s, while five people click and while none does
    python benchmarks/console.py upload        # a zip of 10,000 pictures
    python benchmarks/console.py registry      # pages over 5,000 versions, 2,000 runs and a study of 1,000 trials

A copy of the latest champion is served, in a home of its own. The results go to OUTPUT/console/PART.json (default:
benchmarks/results), and the page OUTPUT/console.md is rebuilt. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from harness import console_people, results_page
from harness.console_page import HEAD, SECTIONS
from harness.console_people import People, SignedIn
from harness.console_store import fill
from harness.results_page import Row
from harness.served_copy import stage

from raycls import cluster, command, progress
from raycls.benchmark.load import Load
from raycls.cluster.processes import psutil
from raycls.data.versions import open_dataset
from raycls.errors import BenchmarkError

HERE = Path(__file__).parent
SERVE_CONFIG = HERE.parent / "serve_config.yaml"
LOADS = 20  # of the first page
REST_S = 60.0
RATE, SECONDS, PEOPLE = 250, 6.0, 5
PICTURES, PIECE = 10_000, 4 << 20
TRIES = 5  # of each page over a large store
CONSOLE, CONTROL, EMPTY = (
    f"ray::ServeReplica:{name}:" for name in ("raycls-console", "raycls-control", "empty")
)


def page(options: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the rows so far: each load of the first page by a browser that has nothing of it."""
    from playwright.sync_api import sync_playwright

    rows: list[Row] = []
    with stage(options.model, SERVE_CONFIG, 1) as server, sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        for turn in range(LOADS + 1):
            context = browser.new_context()
            tab = context.new_page()
            sizes: list[int] = []
            tab.on("requestfinished", _adding(sizes))
            tab.goto(f"{server.url}/console/", wait_until="load")
            ms = tab.evaluate("performance.getEntriesByType('navigation')[0].loadEventEnd")
            if turn:  # the first one also starts processes of the browser
                rows.append({"load": turn, "ms": ms, "bytes": sum(sizes), "files": len(sizes)})
            context.close()
        browser.close()
        yield rows


def _adding(sizes: list[int]) -> Callable[[Any], None]:
    """Return what adds the bytes of a finished request and of its answer."""
    return lambda done: sizes.append(sum(done.sizes().values()))


def rest(options: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield one row: the console and an empty replica, at rest for a minute."""
    from ray import serve

    @serve.deployment(name="Empty", ray_actor_options={"num_cpus": 0})
    class Empty:
        async def __call__(self) -> str:
            return ""

    with stage(options.model, SERVE_CONFIG, 1) as server:
        SignedIn(server.url).pages(server.version.name)  # a console that was used
        cluster.connect(start_local=False)
        serve.run(
            Empty.bind(),  # type: ignore[attr-defined]
            name="empty",
            route_prefix="/empty",
        )
        time.sleep(5)
        found = {name: _process(name) for name in (CONSOLE, EMPTY)}
        before = {name: sum(process.cpu_times()[:2]) for name, process in found.items()}
        with progress.bar(f"at rest for {REST_S:.0f} s"):
            time.sleep(REST_S)
        row: Row = {}
        for name, process in found.items():
            kind = "console" if name == CONSOLE else "empty"
            row[f"{kind}_mb"] = process.memory_full_info().uss / 1e6
            row[f"{kind}_cores"] = (sum(process.cpu_times()[:2]) - before[name]) / REST_S
        import ray

        ray.shutdown()
        yield [row]


def _process(name: str) -> psutil.Process:
    """Return the process of this benchmark's server whose name begins so."""
    running = cluster.status()
    if running is None:
        raise BenchmarkError("the cluster stopped during the measurement")
    found = [
        process
        for process in psutil.Process(running.pid).children(recursive=True)
        if "".join(process.cmdline()[:1]).startswith(name)
    ]
    if len(found) != 1:
        raise BenchmarkError(f"{len(found)} processes are called {name}")
    return found[0]


def clicking(options: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the rows so far: pairs with five people at the console and without."""
    rows: list[Row] = []
    load = Load(rate=RATE, seconds=SECONDS, warmup_seconds=0.5)
    with stage(options.model, SERVE_CONFIG, 2) as server, server.generator() as generator:
        for turn in range(options.pairs):
            for arm in ("none", "five")[:: 1 if turn % 2 else -1]:
                people = People(
                    server.url, server.version.name, server.images, PEOPLE if arm == "five" else 0
                )
                with progress.bar(f"pair {turn + 1} of {options.pairs}, {arm}"), people:
                    found = generator.measure(load)
                rows.append(
                    {
                        "pair": turn,
                        "arm": arm,
                        "p50_ms": found.p50_ms,
                        "p99_ms": found.p99_ms,
                        "errors": sum(found.errors.values()),
                        "clicks": people.clicks,
                        "failed_clicks": people.failed,
                    }
                )
            yield rows


def upload(options: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield one row: 10,000 pictures in a zip, through the console."""
    with stage(options.model, SERVE_CONFIG, 1) as server:
        dataset = open_dataset(server.version.name)
        data = console_people.zip_of_many(dataset, PICTURES)
        person = SignedIn(server.url)
        person.pages(server.version.name)  # what a process loads once is not the upload's
        sizes = {name: _process(name) for name in (CONSOLE, CONTROL)}
        before = {name: process.memory_full_info().uss for name, process in sizes.items()}
        most = dict(before)
        began, first = time.perf_counter(), None

        def looked() -> None:
            for name, process in sizes.items():
                most[name] = max(most[name], process.memory_full_info().uss)

        parcel = person.ask("POST", "/parcels", json={"name": "many.zip", "size": len(data)})
        while parcel["state"] == "arriving":
            at = parcel["received"]
            parcel = person.ask("POST", f"/parcels/{parcel['id']}?at={at}", data=data[at : at + PIECE])
            first = first or time.perf_counter() - began
            looked()
        sent = time.perf_counter() - began
        longest, last, checked = 0.0, time.perf_counter(), 0
        while parcel["state"] == "checking":
            time.sleep(0.25)
            parcel = person.ask("GET", f"/parcels/{parcel['id']}")
            looked()
            if parcel["checked"] != checked or parcel["state"] != "checking":
                longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
                checked = parcel["checked"]
        answer = parcel["answer"] or {"taken": [], "refused": []}
        yield [
            {
                "bytes": len(data),
                "taken": len(answer["taken"]),
                "refused": len(answer["refused"]),
                "first_progress_s": first,
                "longest_without_progress_s": longest,
                "sent_s": sent,
                "seconds": time.perf_counter() - began,
                "console_grew_mb": (most[CONSOLE] - before[CONSOLE]) / 1e6,
                "control_grew_mb": (most[CONTROL] - before[CONTROL]) / 1e6,
            }
        ]


def registry(options: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the rows so far: each page over a large registry."""
    with stage(options.model, SERVE_CONFIG, 1) as server:
        study, run = fill(server.version)
        person, name = SignedIn(server.url), server.version.name
        rows: list[Row] = []
        for path in (*person.paths(name), f"/models/{name}/versions/4000", f"/runs/{run}", f"/runs/{study}"):
            times, size = [], 0
            for _ in range(TRIES):
                began = time.perf_counter()
                size = len(person.page(path))
                times.append(time.perf_counter() - began)
            rows.append(
                {"page": path, "median_s": statistics.median(times), "max_s": max(times), "bytes": size}
            )
            progress.say(f"{path}: {statistics.median(times):.2f} s")
        yield rows


PARTS = {part.__name__: part for part in (page, rest, clicking, upload, registry)}


def main(arguments: list[str]) -> None:
    """Measure one part, rebuild the page and print the rows. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--pairs", type=int, default=20, help="clicking (default: 20)")
    parser.add_argument("--model", help="NAME or NAME/VERSION (default: the latest champion)")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    growing = (
        results_page.document(options.part, {"pairs": options.pairs}, rows)
        for rows in PARTS[options.part](options)
    )
    file, last = results_page.keep_last(options.output, "console", growing)
    made = results_page.write(options.output, "console", HEAD, SECTIONS)
    progress.say(f"wrote {file} and {made}")
    print(json.dumps(last))


if __name__ == "__main__":
    command.run(main)
