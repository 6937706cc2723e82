"""What the last check of a dataset version found, for those who look later.

keep(dataset, findings, predictions="pets/3 predicts.")
load(dataset)["findings"][0]["title"]

$RAYCLS_HOME/checks/pets/2.json
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from raycls import home
from raycls.data.check import Finding
from raycls.data.packed import PackedDataset
from raycls.errors import RayclsError
from raycls.reports.dataset_report import MOST


def keep(dataset: PackedDataset, findings: list[Finding], *, predictions: str) -> None:
    """Write the findings. predictions: a sentence that says where the predictions come from. Raises RayclsError."""
    document = {
        "fingerprint": dataset.info.fingerprint,
        "made": time.time(),
        "predictions": predictions,
        "findings": [_finding(dataset, finding) for finding in findings],
    }
    path = _path(dataset)
    whole = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        whole.write_text(json.dumps(document))
        whole.replace(path)
    except OSError as error:
        raise RayclsError(f"cannot write {path}: {error.strerror}") from None


def load(dataset: PackedDataset) -> dict[str, Any] | None:
    """Return the last check of these images; None where there was none since they became what they are.

    `findings` have title, advice, sentences, `count` of images, and the first of these with `split` and `row` in it.
    """
    try:
        document: dict[str, Any] = json.loads(_path(dataset).read_bytes())
    except (OSError, ValueError):
        return None
    return document if document.get("fingerprint") == dataset.info.fingerprint else None


def _finding(dataset: PackedDataset, finding: Finding) -> dict[str, Any]:
    first, counted = {}, 0  # row of the manifest of each split's first image
    for split, count in dataset.info.counts.items():
        first[split], counted = counted, counted + count
    images = [asdict(image) | {"row": image.index - first[image.split]} for image in finding.images[:MOST]]
    return {
        "title": finding.title,
        "advice": finding.advice,
        "sentences": finding.sentences,
        "count": len(finding.images),
        "images": images,
    }


def _path(dataset: PackedDataset) -> Path:
    return home.home() / "checks" / dataset.info.name / f"{dataset.info.version}.json"
