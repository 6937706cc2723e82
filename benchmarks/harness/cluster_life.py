"""What people do on a cluster of three hosts: a model's life, a study whose nodes come and go, data, more replicas.

    rows = scale(found)         # found: harness.three_hosts.Cluster, which serves

Each part leaves four replicas on both nodes, as it found them.
"""

from __future__ import annotations

import io
import json
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from harness.three_hosts import Cluster
from raycls import progress
from raycls.errors import BenchmarkError

FORWARD_MS = 20
REPEATS, SECONDS, CONNECTIONS = 3, 10, 32
SIDE, PICTURES = 224, 7000  # of the large dataset: 1.05 GB as it is stored

Row = dict[str, Any]


def spread(found: Cluster) -> None:
    """Serve anew, because Serve moves no replica to a node that came later; return when both nodes have some."""
    found.shutdown()
    found.serve(min_replicas=4, max_replicas=4)  # the other node could take all of them
    found.until(lambda: len(found.replicas()) == 2, "a replica on each node")


def life(found: Cluster) -> Row:
    """Upload, review, retrain, an experiment, a promotion and a rollback, by way of a node's address."""
    with progress.bar("a model's life"):
        found.shutdown()
        found.serve(min_replicas=2, max_replicas=2)  # leaves cores for the training
        admin = found.raycls("tokens", "add", "owner", "--role", "admin").split()[-1]
        sent = found.services.folder / "sent.zip"
        sent.write_bytes(_digits())
        upload = "/upload_training_data?dataset=digits"
        form = ["-H", "Content-Type: application/zip", "--data-binary", f"@{sent}"]
        taken = found.ask("POST", upload, admin, *form)["taken"]
        found.raycls("uploads", "accept", "digits", *[each["sha256"] for each in taken])

        wanted = {"model": "digits", "preset": "smoke", "settings": ["epochs=8"], "trust": ["owner"]}
        begun = found.ask("POST", "/retrain", admin, *_json(wanted))["id"]
        shown: dict[str, Any] = {}

        def ended() -> bool:
            shown.update(found.ask("GET", f"/retrain/{begun}", admin))
            return shown["state"] in ("done", "failed")

        found.until(ended, "the retraining", 400)
        if shown["state"] != "done":
            raise BenchmarkError(f"the retraining failed: {shown['error']}")
        version = shown["done"]["train"]["model"]

        experiment = {"challenger": version, "mode": "split", "share": 0.5}
        found.ask("POST", "/experiments", admin, *_json(experiment))
        found.until(lambda: version.partition("/")[2] in _versions(found), "the challenger answers")
        found.ask("DELETE", "/experiments", admin, *_json({"reason": "seen"}))
        forced = {"version": version.partition("/")[2], "force": "the benchmark goes on"}
        found.ask("POST", "/models/digits/promote", admin, *_json(forced))
        found.ask("POST", "/models/digits/rollback", admin, *_json({"reason": "as before"}))
        events = json.loads(found.raycls("models", "history", "digits", "--json"))[:2]
        spread(found)
    return {
        "what": f"{len(taken)} uploads, retrained to {version}, split, promoted, rolled back: the history says",
        "value": [event["kind"] for event in events],
        "goal": ["rollback", "forced"],
    }


def _json(document: dict[str, Any]) -> list[str]:
    return ["-H", "Content-Type: application/json", "-d", json.dumps(document)]


def _versions(found: Cluster) -> set[str]:
    """Return which versions answer twenty clients, half of them by way of each node."""
    asked = {}
    for number in range(20):
        more = ["-H", f"X-Client-Id: {number}", "-F", f"file=@{found.pictures / '0' / '0.png'}"]
        asked[number] = found.ask("POST", "/predict", found.token, *more)["model_version"]
    return set(asked.values())


def _digits() -> bytes:
    """Return a zip of new pictures of digits in class folders."""
    from sklearn.datasets import load_digits

    digits, noise = load_digits(), np.random.default_rng(0)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (pixels, label) in enumerate(zip(digits.images[:40], digits.target[:40], strict=True)):
            noisy = np.clip(pixels * 15 + noise.integers(0, 12, pixels.shape), 0, 255).astype(np.uint8)
            png = io.BytesIO()
            Image.fromarray(noisy).save(png, "PNG")
            archive.writestr(f"{label}/{number}.png", png.getvalue())
    return buffer.getvalue()


def study(found: Cluster) -> Row:
    """A study whose second node joins while it runs, and whose first one is killed."""
    first, second = found.nodes
    trials, name = 8, "three"
    with progress.bar("a study: a node joins, another is killed"):
        found.shutdown()
        second.kill()
        log = found.head.folder / "study.log"
        command = ["-m", "raycls", "tune", "digits", "--trials", str(trials), "--max-epochs", "4"]
        running = found.head.start([sys.executable, *command, "--study", name, "--model", "tuned"], log)
        try:
            found.until(lambda: _completed(found, name) > 0, "the first trial", 300)
            found.start_node(second)
            found.until(lambda: _works(second), "a trial on the node that joined", 300)
            first.kill()
            if running.wait(timeout=600):
                raise BenchmarkError(f"the study failed: {log.read_text()[-2000:]}")
        finally:
            if running.poll() is None:
                running.kill()
        found.start_node(first)
        spread(found)
    return {
        "what": "trials of a study that end, in PostgreSQL: a node joins, and the other one is killed",
        "value": _completed(found, name),
        "goal": trials,
    }


def _completed(found: Cluster, name: str) -> int:
    command = [str(Path(sys.executable).parent / "raycls"), "tune", "show", name, "--json"]
    said = found.head.run(command, check=False)
    if said.returncode:  # it has not begun
        return 0
    ended = ("done", "stopped early")
    return sum(trial["state"] in ended for trial in json.loads(said.stdout)["trials"])


def _works(node: Any) -> bool:
    """Return whether a training runs on the node."""
    for process in node.processes():
        with suppress(psutil.Error):  # it has ended
            if "Train" in " ".join(process.cmdline()[:1]):
                return True
    return False


def dataset(found: Cluster) -> Row:
    """A dataset of 1 GB to both nodes: what each received over its link, as a multiple of the dataset's size."""
    folder = found.head.folder / "large"
    with progress.bar(f"{PICTURES:,} pictures"):
        noise = np.random.default_rng(0)
        for number in range(PICTURES):
            place = folder / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            blocks = noise.integers(0, 256, (7, 7, 3), dtype=np.uint8)
            Image.fromarray(blocks).resize((SIDE, SIDE)).save(place / f"{number}.jpg", quality=80)
    with progress.bar("preparing, pushing, and a training on both nodes"):
        found.shutdown()
        found.raycls("data", "prepare", str(folder), "--name", "large", "--size", str(SIDE), timeout=900)
        found.raycls("data", "push", "large", timeout=900)
        before = [_received(node) for node in found.nodes]
        words = ["--preset", "smoke", "--workers", "2", "--set", "epochs=1", "--set", "train_fraction=0.02"]
        found.raycls("train", "large", *words, timeout=900)
        received = [_received(node) - past for node, past in zip(found.nodes, before, strict=True)]
        size = PICTURES * SIDE * SIDE * 3
        spread(found)
    return {
        "what": f"{size / 1e9:.2f} GB from S3 to two nodes: bytes received by each, × the dataset's",
        "value": [round(each / size, 2) for each in received],
        "goal": [1.0, 1.0],
    }


def _received(node: Any) -> int:
    """Return the bytes that a host has received over its link."""
    (found,) = json.loads(node.run(["ip", "-s", "-j", "link", "show", "eth0"]).stdout)
    count: int = found["stats64"]["rx"]["bytes"]
    return count


def scale(found: Cluster) -> list[Row]:
    """Replicas that autoscaling adds on both nodes; and two nodes of one core against one."""
    first, second = found.nodes
    slow = {"simulate_forward_ms": FORWARD_MS}
    with progress.bar("autoscaling, and one node against two"):
        found.shutdown()
        for core, node in enumerate(found.nodes):
            node.kill()
            found.start_node(node, core=core)
        # Two would fit on one node: the second one has to go to the other.
        found.serve(slow, on_a_node=1, min_replicas=1, max_replicas=2, target_ongoing_requests=8)
        (alone,) = found.replicas()
        answers = next(node for node in found.nodes if node.address == alone)
        found.rate(answers, connections=CONNECTIONS, seconds=30)
        scaled = len(found.replicas())
        simulated = _one_against_two(found, slow, REPEATS)
        real = _one_against_two(found, {}, 1)
        for node in (first, second):
            node.kill()
            found.start_node(node)
        spread(found)
    return [
        {"what": "nodes with replicas after 30 s of load, from one replica", "value": scaled, "goal": 2},
        _compared(f"a forward pass of {FORWARD_MS} ms", simulated, 1.8),
        _compared("the real network, whose client takes the same cores", real, "–"),
    ]


def _one_against_two(found: Cluster, arguments: dict[str, Any], repeats: int) -> dict[int, list[float]]:
    """Return the requests/s of one node and of two, in turns."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    for _ in range(repeats):
        for count, measured in rates.items():
            found.shutdown()
            found.serve(arguments, on_a_node=1, min_replicas=count, max_replicas=count)
            found.until(lambda count=count: len(found.replicas()) == count, "a replica on each node")  # type: ignore[misc]
            answers = next(node for node in found.nodes if node.address in found.replicas())
            measured.append(found.rate(answers, connections=CONNECTIONS, seconds=SECONDS))
    return rates


def _compared(what: str, rates: dict[int, list[float]], goal: Any) -> Row:
    ratios = [two / one for one, two in zip(*rates.values(), strict=True)]
    one, two = (float(np.median(measured)) for measured in rates.values())
    return {
        "what": f"requests/s of two nodes of one core, × one: {two:.0f} against {one:.0f}, {what}, n = {len(ratios)}, "
        f"{min(ratios):.2f} to {max(ratios):.2f}",
        "value": round(float(np.median(ratios)), 2),
        "goal": goal,
    }
