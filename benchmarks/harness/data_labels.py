"""The labels part of benchmarks/data.py: labels of CIFAR-10 are changed, and the check of a dataset looks for them.

    row = measure(dataset="cifar10", share=0.03, preset="quick", folds=4, seed=0)

Recall is the share of the changed labels that it lists, and precision the share of its list that was changed. CIFAR-10
has about half a percent of label errors of its own (labelerrors.com), which count against the precision here.
"""

from __future__ import annotations

import os
import tempfile
from typing import Any

import numpy as np
import pyarrow as pa

from raycls.data.label_errors import label_errors
from raycls.data.manifest import left_out_table, read_rows
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_dataset
from raycls.data.writer import reserved, write_version
from raycls.training.out_of_fold import out_of_fold


def measure(dataset: str, share: float, preset: str, folds: int, seed: int) -> dict[str, Any]:
    """Return what was changed and found. The changed dataset is in a home of its own, which is deleted at the end."""
    whole = open_dataset(dataset)
    former = os.environ.get("RAYCLS_HOME")
    with tempfile.TemporaryDirectory() as home:
        os.environ["RAYCLS_HOME"] = home
        try:
            changed, flipped = flip(whole, share, seed)
            probabilities = out_of_fold(changed, preset, folds)
            labels = np.concatenate([changed.labels(split) for split in changed.info.counts])
        finally:
            os.environ.pop("RAYCLS_HOME")
            if former is not None:
                os.environ["RAYCLS_HOME"] = former
    found = label_errors(labels, probabilities)
    right = int(np.isin(found, flipped).sum())
    return {
        "seed": seed,
        "images": len(labels),
        "changed": len(flipped),
        "listed": len(found),
        "recall": right / len(flipped),
        "precision": right / max(1, len(found)),
        "accuracy": float((probabilities.argmax(1) == labels).mean()),
    }


def flip(whole: PackedDataset, share: float, seed: int) -> tuple[PackedDataset, np.ndarray]:
    """Write a copy with other labels for a share of the images. Return it and their rows, int64 M."""
    info, random = whole.info, np.random.default_rng(seed)
    labels = np.concatenate([whole.labels(split) for split in info.counts])
    flipped = np.sort(random.permutation(len(labels))[: round(share * len(labels))])
    labels[flipped] = (labels[flipped] + random.integers(1, len(info.classes), len(flipped))) % len(
        info.classes
    )
    names = pa.array(np.array(info.classes, dtype=object)[labels], pa.string())
    rows = read_rows(whole)
    ends = np.cumsum(list(info.counts.values()))
    with reserved("flipped"), write_version("flipped", 1) as writer:
        for split, count in info.counts.items():
            writer.array(split, count, info.image_size)[:] = whole.images(split)
        made = writer.publish(
            classes=info.classes,
            labels=dict(zip(info.counts, np.split(labels, ends[:-1]), strict=True)),
            mirrorable=info.mirrorable,
            source=info.source,
            licence=info.licence,
            rows=rows.set_column(rows.schema.get_field_index("label"), "label", names),
            left_out=left_out_table([]),
        )
    return made, flipped
