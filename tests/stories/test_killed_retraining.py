"""A retraining that is killed again and again makes one dataset version and one model version, and decides once."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raycls import registry
from raycls.data.layout import versions_of
from raycls.data.versions import open_dataset
from raycls.lifecycle import intake, retraining, review
from raycls.lifecycle.retraining import Wanted
from raycls.lifecycle.uploads import Uploads
from raycls.registry import history

# Seconds from the start of the process to its end by SIGKILL. A try begins with imports and Ray, of 10 s and more.
# benchmarks/retraining_kills.py kills ten times, also the control plane and the cluster.
MOMENTS = (3, 7, 11, 15)


def _raycls(*words: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "raycls", *words],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _run(*words: str) -> None:
    assert _raycls(*words).wait(timeout=300) == 0


@pytest.mark.long
@pytest.mark.timeout(900)
def test_kills_make_nothing_twice_and_nothing_half(home: Path) -> None:
    _run("data", "prepare", "digits")
    _run("train", "digits", "--preset", "smoke")
    _run("promote", "digits", "1")
    digits, uploads = open_dataset("digits"), Uploads()
    noise = np.random.default_rng(0).integers(-6, 7, digits.images("train")[:20].shape)
    pictures = np.clip(digits.images("train")[:20].astype(int) + noise, 0, 255).astype(np.uint8)
    for pixels, label in zip(pictures, digits.labels("train")[:20], strict=True):
        data = [("x.png", _png(pixels))]
        answer = intake.add(uploads, "digits", data, label=digits.info.classes[label], sender="ann")
        review.accept(uploads, "digits", [answer.taken[0].sha256], by="eve")

    wanted = Wanted(
        model="digits",
        then="promote",
        preset="smoke",
        settings=("epochs=12", "batch_size=16"),
        trust=("ann",),
    )
    record = retraining.begin(wanted, by="eve")
    kills = 0
    for moment in MOMENTS:
        process = _raycls("retrain", "run", record.id)
        try:
            process.wait(timeout=moment)
            break  # it is done
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            kills += 1
    _run("retrain", "run", record.id)

    done = retraining.RETRAININGS.load(record.id)
    assert (done.state, done.error) == ("done", ""), done
    assert kills >= 3
    assert versions_of("digits") == [1, 2]
    assert done.done["data"]["added"] in (0, 20)  # 0: a killed try has made the version
    assert [each.reference for each in registry.list_models()] == ["digits/2", "digits/1"]
    decided = [
        event for event in history.events("digits") if event.by == f"retraining {record.id}" and event.done
    ]
    assert len(decided) == 1
    print(f"{kills} kills; {done.done['decide']}")
