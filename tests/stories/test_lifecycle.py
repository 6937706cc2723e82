"""The life of a model: upload → review → retrain → shadow → split → promote → drift → rollback.

Everything goes through the command line and HTTP, as people do it. The first champion has seen every picture once, so
that the retraining makes a better one.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

from raycls.cluster.environment import free_port
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_dataset

CONFIG = Path(__file__).parents[2] / "serve_config.yaml"


class Product:
    """raycls as a user has it: a command line, and a server at an address."""

    def __init__(self, home: Path, folder: Path):
        self.port = free_port(8000)
        self.url = f"http://127.0.0.1:{self.port}"
        self._home, self._folder = home, folder
        # Without the watch after a promotion: dark pictures cost confidence, and it would go back before a person does.
        small_windows = CONFIG.read_text().replace(
            "max_upload_bytes:", "drift_images: 150\n      watch_s: 0\n      max_upload_bytes:"
        )
        (folder / "serve_config.yaml").write_text(small_windows.replace("port: 8000", f"port: {self.port}"))

    def raycls(self, *words: str) -> str:
        """Run a command and return what it prints on stdout."""
        done = subprocess.run(
            [sys.executable, "-m", "raycls", *words],
            cwd=self._folder,
            env=os.environ | {"RAYCLS_HOME": str(self._home), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    def ask(self, method: str, path: str, token: str, **options: Any) -> Any:
        """Send a request with a token and return the JSON of the answer, which must be a good one."""
        headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
        answer = requests.request(method, self.url + path, headers=headers, timeout=120, **options)
        assert answer.ok, answer.text
        return answer.json()

    def predictions(self, pictures: np.ndarray) -> list[dict[str, Any]]:
        """Return what /predict answers, for each picture as another client."""
        found = []
        for number, each in enumerate(pictures):
            headers = {"Content-Type": "image/png", "X-Client-Id": str(number)}
            answer = requests.post(f"{self.url}/predict", _png(each), headers=headers, timeout=30)
            assert answer.ok, answer.text
            found.append(answer.json())
        return found

    def versions(self, pictures: np.ndarray) -> Counter[str]:
        """Return which version has answered how often."""
        return Counter(each["model_version"] for each in self.predictions(pictures))


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    made = Product(tmp_path / "home", tmp_path)
    yield made
    made.raycls("down")


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def _zip_of(pictures: np.ndarray, labels: list[str]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (pixels, label) in enumerate(zip(pictures, labels, strict=True)):
            archive.writestr(f"{label}/{number}.png", _png(pixels))
    return buffer.getvalue()


def _until(true: Callable[[], Any], seconds: float = 120) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return found


def _upload_and_review(product: Product, digits: PackedDataset) -> None:
    """An annotator sends 40 pictures. They wait until an administrator accepts all but one."""
    annotator = product.raycls("tokens", "add", "annotator", "--role", "contribute").strip()
    noise = np.random.default_rng(0).integers(-6, 7, (40, *digits.images("train").shape[1:]))
    fresh = np.clip(digits.images("train")[:40].astype(int) + noise, 0, 255).astype(np.uint8)
    labels = [digits.info.classes[label] for label in digits.labels("train")[:40]]
    sent = product.ask(
        "POST",
        "/upload_training_data?dataset=digits",
        annotator,
        data=_zip_of(fresh, labels),
        headers={"Content-Type": "application/zip"},
    )
    assert (len(sent["taken"]), sent["refused"]) == (40, [])

    waiting = json.loads(product.raycls("uploads", "list", "digits", "--json"))["uploads"]
    assert len(waiting) == 40
    product.raycls("uploads", "reject", "digits", waiting[0]["sha256"])
    product.raycls("uploads", "accept", "digits", *[each["sha256"] for each in waiting[1:]])


@pytest.mark.timeout(900)
def test_upload_review_retrain_shadow_split_promote_drift_rollback(
    product: Product, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAYCLS_HOME", str(tmp_path / "home"))

    # A first model, in service.
    product.raycls("data", "prepare", "digits")
    product.raycls("train", "digits", "--preset", "smoke")
    product.raycls("promote", "digits", "1")
    up = json.loads(product.raycls("up", "--detach", "--json"))
    admin = Path(up["admin_token"]).read_text().strip()
    digits = open_dataset("digits")
    live = digits.images("test")
    assert product.versions(live[:20]) == {"1": 20}

    _upload_and_review(product, digits)

    # Retrain: one retraining, however often it is asked for.
    wanted = {"model": "digits", "preset": "smoke", "settings": ["epochs=8"], "trust": ["annotator"]}
    begun = [
        product.ask("POST", "/retrain", admin, json=wanted, headers={"Idempotency-Key": "monday"})["id"]
        for _ in range(2)
    ]
    assert begun[0] == begun[1]
    seen: list[dict[str, int]] = []

    def ended() -> Any:
        shown = product.ask("GET", f"/retrain/{begun[0]}", admin)
        seen.append(shown["progress"])
        return shown if shown["state"] in ("done", "failed") else None

    done = _until(ended, 300)
    assert done["error"] == ""
    assert {"epoch": 8, "epochs": 8} in seen
    assert done["done"]["data"]["dataset"] == "digits@2"
    assert done["done"]["data"]["added"] == 39
    assert done["done"]["train"]["model"] == "digits/2"
    assert done["done"]["compare"]["verdict"] == "better"
    assert done["done"]["decide"]["decision"] == "challenger"
    assert product.versions(live[:20]) == {"1": 20}

    # Shadow: the challenger computes beside, and nobody sees it.
    shadow = {"challenger": "digits@challenger", "mode": "shadow", "share": 1}
    begun_id = product.ask("POST", "/experiments", admin, json=shadow)["id"]

    def compared() -> bool:
        assert product.versions(live[:50]) == {"1": 50}
        return bool(product.ask("GET", f"/experiments/{begun_id}", admin)["compared"] > 50)

    _until(compared)
    product.ask("DELETE", "/experiments", admin, json={"reason": "it answers"})

    # Split: half of the clients get it, and say what was right.
    product.raycls(
        "experiment", "start", "digits", "--challenger", "digits/2", "--split", "0.5", "--url", product.url
    )
    _until(lambda: product.versions(live[:40])["2"] > 5)
    shares = product.versions(live[np.arange(200) % len(live)])
    assert shares["1"] + shares["2"] == 200
    assert abs(shares["2"] - 100) < 3 * 50**0.5
    product.raycls("experiment", "stop", "--reason", "seen enough", "--url", product.url)

    # Promote, through the gate.
    promoted = product.ask("POST", "/models/digits/promote", admin, json={"version": "2"})
    assert "champion" in promoted["aliases"]
    assert product.versions(live[:20]) == {"2": 20}

    # Drift: the lights go out.
    def alarmed() -> bool:
        product.predictions(live[:150] // 4)
        return any("brightness" in each["alarms"] for each in product.ask("GET", "/drift", admin)["windows"])

    _until(alarmed)
    assert "brightness" in product.raycls("drift", "--url", product.url)

    # Rollback: the former champion answers again.
    product.ask("POST", "/models/digits/rollback", admin, json={"reason": "the lights went out"})
    assert product.versions(live[:20]) == {"1": 20}
    kinds = [each["kind"] for each in json.loads(product.raycls("models", "history", "digits", "--json"))]
    assert kinds == ["rollback", "promotion", "first"]
