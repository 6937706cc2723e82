"""Measure what experiments on live traffic cost, and which requests fail when a challenger or a control plane does.

    python benchmarks/experiments.py cost --before ../older     # beside a checkout of an older state, which has none
    python benchmarks/experiments.py split                      # with --split 0.5, and without an experiment
    python benchmarks/experiments.py changes                    # start, change and end under 250 requests/s
    python benchmarks/experiments.py challengers                # which raise, hang, answer NaN, die or are slow

Every server has two replicas and a home of its own. `cost` and `split` measure in pairs, whose order turns, a closed
loop of 100 connections and one of 1. The results go to OUTPUT/experiments/PART.json (default: benchmarks/results), and
the page OUTPUT/experiments.md is rebuilt. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

from harness import bad_challengers, results_page
from harness.checkout_server import CheckoutServer, serve
from harness.experiments_page import HEAD, SECTIONS
from harness.results_page import Row
from harness.served_copy import LEAD_S, Server, stage

from raycls import command, progress
from raycls.benchmark.load import Load, LoadGenerator
from raycls.errors import UsageError
from raycls.serving.client import manage

HERE = Path(__file__).parent
SERVE_CONFIG = HERE.parent / "serve_config.yaml"
REPLICAS = 2
RATE = 250  # requests/s
LOADS = {"many": Load(connections=100, seconds=4), "one": Load(connections=1, seconds=2)}
CLIENTS = 2_000  # whose share is counted
CHANGES_S = 240.0
SETTLED_S = 1.5  # replicas look at the state twice a second


def cost(options: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the rows so far: pairs of a server of the older checkout and of this one, without an experiment."""
    if not options.before:
        raise UsageError("--before: name a checkout of an older state, in which `make setup` was run")
    with (
        serve(options.before, options.dataset, options.preset, replicas=REPLICAS) as old,
        serve(HERE.parent, options.dataset, options.preset, replicas=REPLICAS) as new,
        ExitStack() as stack,
    ):
        arms = {
            name: stack.enter_context(LoadGenerator(f"{server.url}/predict", server.images))
            for name, server in (("before", old), ("after", new))
        }
        yield from _pairs(options.pairs, {name: lambda _: None for name in arms}, arms.__getitem__)


def split(options: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the rows so far: pairs without an experiment and with `--split 0.5`. The last row has the shares."""
    with (
        serve(HERE.parent, options.dataset, options.preset, replicas=REPLICAS, versions=2) as server,
        LoadGenerator(f"{server.url}/predict", server.images) as generator,
    ):

        def runs() -> bool:
            return any(
                each["state"] == "running" for each in server.call("GET", "/experiments")["experiments"]
            )

        def begun(_: str) -> None:
            if not runs():  # the pair before may have ended with it
                wanted = {"challenger": f"{server.model}/2", "mode": "split", "share": 0.5}
                _running(server, server.call("POST", "/experiments", wanted)["id"])

        def ended(_: str) -> None:
            if runs():
                server.call("DELETE", "/experiments")
            time.sleep(SETTLED_S)

        rows: list[Row] = []
        for rows in _pairs(options.pairs, {"none": ended, "split": begun}, lambda _: generator):
            yield rows
        ended("")
        begun("")
        answered = bad_challengers.send(server.url, _image(server), CLIENTS)
        rows = [*rows, {"arm": "shares", "clients": CLIENTS, "challenger": answered.count("2")}]
        yield rows


def _running(server: CheckoutServer, identifier: str) -> None:
    """Wait until the challenger answers."""
    image = _image(server)
    deadline = time.monotonic() + 120
    while not server.call("GET", f"/experiments/{identifier}")["arms"]["challenger"]["requests"]:
        bad_challengers.send(server.url, image, 20)
        if time.monotonic() > deadline:
            raise UsageError("the challenger does not start within two minutes")
        time.sleep(0.5)


def _image(server: CheckoutServer) -> bytes:
    return next(path for path in sorted(server.images.rglob("*")) if path.is_file()).read_bytes()


def _pairs(
    count: int, arms: dict[str, Callable[[str], None]], generator: Callable[[str], LoadGenerator]
) -> Iterator[list[Row]]:
    """Yield the rows so far. arms: what to do before each is measured."""
    rows: list[Row] = []
    for turn in range(count):
        order = list(arms) if turn % 2 == 0 else list(reversed(arms))
        for arm in order:
            arms[arm](arm)
            with progress.bar(f"pair {turn + 1} of {count}, {arm}"):
                found = {name: generator(arm).measure(load) for name, load in LOADS.items()}
            rows.append(
                {
                    "pair": turn,
                    "arm": arm,
                    "requests_per_s": found["many"].requests_per_s,
                    "p50_ms": found["one"].p50_ms,
                    "errors": sum(sum(sample.errors.values()) for sample in found.values()),
                }
            )
        yield rows


def changes(options: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield one row: experiments are started, changed twice and ended, one after another, under load."""
    with stage(options.model, SERVE_CONFIG, REPLICAS) as server:
        challenger, count, longest = server.again(), 0, 0.0
        before = {process.pid for process in server.replicas()}
        with server.under_load(RATE, CHANGES_S) as sample:
            end = time.monotonic() + CHANGES_S - 2 * LEAD_S
            while time.monotonic() + 1.25 * longest < end:  # start none that may end after the load
                began, mode = time.monotonic(), ("shadow", "split")[count % 2]
                with bad_challengers.experiment(server, challenger, mode, 0.2) as identifier:
                    bad_challengers.until_asked(server, identifier)
                    for share in (0.8, 0.4):
                        manage.call(server.url, "PATCH", "/experiments", {"share": share})
                        time.sleep(SETTLED_S)
                count, longest = count + 1, max(longest, time.monotonic() - began)
        found = sample.result()
        restarted = before - {process.pid for process in server.replicas()}
    yield [
        {
            "experiments": count,
            "answered": found.answered,
            "errors": found.errors,
            "p99_ms": found.p99_ms,
            "max_ms": found.max_ms,
            "restarted": len(restarted),
        }
    ]


def challengers(options: argparse.Namespace) -> Iterator[list[Row]]:
    """Yield the rows so far: each kind of bad challenger, in shadow and in split."""
    rows: list[Row] = []
    with stage(options.model, SERVE_CONFIG, REPLICAS) as server:
        for kind in bad_challengers.KINDS:
            for mode in ("shadow", "split"):
                progress.say(f"a challenger that {kind}, {mode}")
                rows.append(_one(server, kind, mode))
                yield rows


def _one(server: Server, kind: str, mode: str) -> Row:
    version = bad_challengers.register(server, kind)
    with server.under_load(RATE, bad_challengers.LOAD_S, timeout=bad_challengers.DEADLINE_S) as sample:
        found = bad_challengers.observe(server, version, kind, mode)
    load = sample.result()
    return {
        "challenger": kind,
        "mode": mode,
        "answered": load.answered,
        "errors": load.errors,
        "p99_ms": load.p99_ms,
        "max_ms": load.max_ms,
        **found,
    }


PARTS = {part.__name__: part for part in (cost, split, changes, challengers)}


def _commit(checkout: Path) -> str:
    """Return the commit of a checkout, short."""
    command = ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main(arguments: list[str]) -> None:
    """Measure one part, rebuild the page and print the rows. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument(
        "--before", type=Path, help="a checkout of an older state, with its environment in .venv"
    )
    parser.add_argument(
        "--dataset", default="digits", help="cost, split: what the models learn (default: digits)"
    )
    parser.add_argument("--preset", default="smoke", help="cost, split: how (default: smoke)")
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument(
        "--model", help="changes, challengers: NAME or NAME/VERSION (default: the latest champion)"
    )
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    facts = {"dataset": options.dataset, "preset": options.preset, "pairs": options.pairs}
    facts |= {"before": _commit(options.before), "after": _commit(HERE.parent)} if options.before else {}
    growing = (results_page.document(options.part, facts, rows) for rows in PARTS[options.part](options))
    file, last = results_page.keep_last(options.output, "experiments", growing)
    page = results_page.write(options.output, "experiments", HEAD, SECTIONS)
    progress.say(f"wrote {file} and {page}")
    print(json.dumps(last))


if __name__ == "__main__":
    command.run(main)
