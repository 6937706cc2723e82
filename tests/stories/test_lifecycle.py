"""The life of a model: upload → review → retrain → shadow → split → promote → drift → rollback.

Everything goes through the command line and HTTP, as people do it. The first champion has seen every picture once, so
that the retraining makes a better one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raycls.data.packed import PackedDataset
from raycls.data.versions import open_dataset
from tests.product import Product, until, zip_of


@pytest.fixture
def product(tmp_path: Path) -> Iterator[Product]:
    made = Product(tmp_path / "home", tmp_path)
    yield made
    made.raycls("down")


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
        data=zip_of(fresh, labels),
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

    done = until(ended, 300)
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

    until(compared)
    product.ask("DELETE", "/experiments", admin, json={"reason": "it answers"})

    # Split: half of the clients get it, and say what was right.
    product.raycls(
        "experiment", "start", "digits", "--challenger", "digits/2", "--split", "0.5", "--url", product.url
    )
    until(lambda: product.versions(live[:40])["2"] > 5)
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

    until(alarmed)
    assert "brightness" in product.raycls("drift", "--url", product.url)

    # Rollback: the former champion answers again.
    product.ask("POST", "/models/digits/rollback", admin, json={"reason": "the lights went out"})
    assert product.versions(live[:20]) == {"1": 20}
    kinds = [each["kind"] for each in json.loads(product.raycls("models", "history", "digits", "--json"))]
    assert kinds == ["rollback", "promotion", "first"]
