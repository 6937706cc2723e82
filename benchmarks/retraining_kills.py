"""Kill retrainings at many moments, and look whether anything was made twice, or half.

    python benchmarks/retraining_kills.py --kills 10

Three kinds of process are killed (SIGKILL): the driver that works on the retraining, the control plane of the server
that submitted it, and all processes of the cluster, which is then started again. Each retraining is killed up to
PER_RETRAINING times, at moments spread over its length, and then left alone until its end. It must make one dataset
version and one model version and decide once. All files are in a temporary RAYCLS_HOME. The results go to
OUTPUT/retraining_kills/kills.json (default: benchmarks/results), and the page OUTPUT/retraining_kills.md is rebuilt.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import psutil
import yaml
from harness import results_page
from harness.results_page import Document, Row, table
from PIL import Image

from raycls import cluster, command, home, progress, registry
from raycls.cluster.environment import free_port
from raycls.data.layout import versions_of
from raycls.data.versions import open_dataset
from raycls.errors import BenchmarkError
from raycls.lifecycle import intake, retraining, review
from raycls.lifecycle.retraining import Retraining, Wanted
from raycls.lifecycle.uploads import Uploads
from raycls.registry import history

HERE = Path(__file__).parent
KINDS = ("driver", "control plane", "cluster")
PER_RETRAINING = 4  # the control plane gives a retraining up after five jobs
PICTURES = 8  # new ones for each retraining
GIVE_UP_S = 300.0
SETTINGS = ("epochs=10", "batch_size=16")  # long enough to be hit
HEAD = """\
# Kills of retrainings

`benchmarks/retraining_kills.py` made this page. Retrainings of a small model are killed at moments spread over their
length, and then left alone. Nothing may be made twice or half: one dataset version, one model version and one decision
for each.
"""


def raycls(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "raycls", *words],
        cwd=home.home(),
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def run(*words: str) -> None:
    if raycls(*words).wait(timeout=GIVE_UP_S):
        raise BenchmarkError(f"raycls {' '.join(words)} failed")


def accept_pictures(seed: int) -> None:
    """Let the next dataset version have PICTURES new pictures."""
    digits, uploads = open_dataset("digits@1"), Uploads()
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(digits.labels("train")))[:PICTURES]
    noise = random.integers(-6, 7, (PICTURES, *digits.images("train").shape[1:]))
    pictures = np.clip(digits.images("train")[chosen].astype(int) + noise, 0, 255).astype(np.uint8)
    for pixels, label in zip(pictures, digits.labels("train")[chosen], strict=True):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        answer = intake.add(
            uploads, "digits", [("x", buffer.getvalue())], label=digits.info.classes[label], sender="ann"
        )
        review.accept(uploads, "digits", [each.sha256 for each in answer.taken], by="eve")


def wait_for(record: Retraining, seconds: float) -> bool:
    """Return whether the retraining ends within that time."""
    deadline = time.monotonic() + seconds
    while retraining.RETRAININGS.load(record.id).is_open:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def up() -> None:
    run("up", "--detach")


def kill(kind: str) -> bool:
    """Kill what the kind says, and start it again where nobody else does. Return whether there was such a process."""
    running = cluster.status()
    if running is None:
        raise BenchmarkError("the cluster stopped by itself")
    members = psutil.Process(running.pid).children(recursive=True)
    if kind == "cluster":
        for process in [psutil.Process(running.pid), *members]:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        run("down")
        up()
        return True
    name = "raycls retrain run" if kind == "driver" else "ray::ServeReplica:raycls-control"
    struck = False
    for process in members:
        with suppress(psutil.Error):
            if name in " ".join(process.cmdline()):
                process.send_signal(signal.SIGKILL)
                struck = True
    return struck


def one(kind: str, number: int, moments: list[float]) -> Row:
    """Begin a retraining on the server, kill at these moments (seconds after the one before), and look at the end."""
    accept_pictures(number)
    versions = versions_of("digits"), len(registry.list_models())
    record = retraining.begin(
        Wanted(model="digits", then="promote", preset="smoke", settings=SETTINGS, trust=("ann",)),
        by="benchmark",
    )
    kills, steps = 0, []
    for moment in moments:
        if wait_for(record, moment):
            break
        step = retraining.RETRAININGS.load(record.id).step or "waiting"
        if kill(kind):
            kills += 1
            steps.append(step)
    if not wait_for(record, GIVE_UP_S):
        raise BenchmarkError(f"retraining {record.id} did not end")
    done = retraining.RETRAININGS.load(record.id)
    decisions = [event for event in history.events("digits") if event.by == f"retraining {record.id}"]
    return {
        "kind": kind,
        "kills": kills,
        "steps": steps,
        "jobs": done.jobs,
        "state": done.state,
        "error": done.error,
        "dataset_versions": len(versions_of("digits")) - len(versions[0]),
        "model_versions": len(registry.list_models()) - versions[1],
        "decisions": len([event for event in decisions if event.done]),
        "unfinished_decisions": len([event for event in decisions if not event.done]),
    }


def measure(kinds: list[str], kills: int) -> Iterator[list[Row]]:
    """Yield the rows so far. Each kind is killed at least `kills` times."""
    rows: list[Row] = []
    accept_pictures(0)
    with progress.bar("an undisturbed retraining"):
        began = time.monotonic()
        undisturbed = one("nobody", 0, [])
        length = time.monotonic() - began
    rows.append({**undisturbed, "seconds": length})
    yield rows
    number = 0
    for kind in kinds:
        done = 0
        while done < kills:
            number += 1
            # Each waits 2.5 to 47.5% of the length after the kill before: other moments for each retraining.
            moments = [
                length * ((0.05 + 0.9 * ((number * 0.37 + k * 0.61) % 1)) / 2) for k in range(PER_RETRAINING)
            ]
            row = one(kind, number, moments)
            rows.append(row)
            done += max(1, row["kills"])
            progress.say(json.dumps(row))
            yield rows


def section(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    rows = [row for row in document["rows"] if row["kills"]]
    lines = []
    for kind in dict.fromkeys(row["kind"] for row in rows):
        mine = [row for row in rows if row["kind"] == kind]
        steps = [step for row in mine for step in row["steps"]]
        hit = ", ".join(f"{step}: {steps.count(step)}" for step in dict.fromkeys(steps))
        lines.append(
            (
                kind,
                len(mine),
                sum(row["kills"] for row in mine),
                hit,
                sum(row["state"] == "done" for row in mine),
                *(
                    " and ".join(sorted({str(row[key]) for row in mine}))
                    for key in ("dataset_versions", "model_versions", "decisions")
                ),
            )
        )
    head = (
        "killed",
        "retrainings",
        "kills",
        "in which step",
        "finished",
        "dataset versions each",
        "model versions each",
        "decisions each",
    )
    seconds = document["rows"][0]["seconds"]
    facts = f"Measured {document['date']} (UTC). An undisturbed retraining takes {seconds:.0f} s."
    return f"## Kills\n\n{facts}\n\n{table(head, lines)}"


def main(arguments: list[str]) -> None:
    """Kill, look, rebuild the page. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=10, help="of each kind, at least (default: 10)")
    parser.add_argument("--kinds", default=",".join(KINDS), help="with commas (default: all)")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="raycls-kills-") as folder, home.elsewhere(Path(folder)):
        config = yaml.safe_load((HERE.parent / "serve_config.yaml").read_text())
        config["http_options"]["port"] = free_port(8000)
        (Path(folder) / "serve_config.yaml").write_text(yaml.safe_dump(config))
        run("data", "prepare", "digits")
        run("train", "digits", "--preset", "smoke")
        run("promote", "digits", "1")
        up()
        try:
            growing = (
                results_page.document("kills", {"kills": options.kills}, rows)
                for rows in measure(options.kinds.split(","), options.kills)
            )
            file, last = results_page.keep_last(options.output, "retraining_kills", growing)
        finally:
            run("down")
    page = results_page.write(options.output, "retraining_kills", HEAD, {"kills": section})
    progress.say(f"wrote {file} and {page}")
    print(json.dumps(last))


if __name__ == "__main__":
    command.run(main)
