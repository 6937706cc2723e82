"""The check of a dataset: one HTML page with thumbnails, the same as JSON, and a list for `--exclude`.

    written = write_report(open_dataset("pets"), findings, Path("pets-check.html"), predictions="…")

The page loads nothing from the internet. raycls/data/check.py finds what it shows.
"""

from __future__ import annotations

import base64
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from raycls.data.check import Finding
from raycls.data.packed import PackedDataset
from raycls.errors import RayclsError, UsageError
from raycls.reports.pictures import png
from raycls.reports.templates import environment

MOST = 60  # thumbnails of a finding
SIDE = 128  # pixels a side of a thumbnail, at most
EXCLUDED = "exclude.txt"


def write_report(
    dataset: PackedDataset, findings: list[Finding], output: Path, *, predictions: str
) -> tuple[Path, Path]:
    """Write the page to `output`, and beside it a list of the images that may be excluded. Return both files.

    predictions: a sentence that says where the predictions come from. Raises UsageError if `output` is not a file in an
    existing folder, and RayclsError if it cannot be written.
    """
    check_output(output)
    shown = {suspect.index for finding in findings for suspect in finding.images[:MOST]}
    html = (
        environment()
        .get_template("dataset_page.html.j2")
        .render(
            info=dataset.info,
            images=sum(dataset.info.counts.values()),
            predictions=predictions,
            findings=findings,
            pictures=_thumbnails(dataset, sorted(shown)),
            most=MOST,
            made=f"{time.strftime('%Y-%m-%d %H:%M')}",
        )
    )
    excluded = output.with_name(f"{output.stem}-{EXCLUDED}")
    try:
        output.write_text(html, encoding="utf-8")
        excluded.write_text(_exclude_list(findings), encoding="utf-8")
    except OSError as error:
        raise RayclsError(f"cannot write {output}: {error.strerror}; choose --output") from None
    return output, excluded


def check_output(output: Path) -> None:
    """Raise UsageError if a page cannot be written there, before anything is computed for it."""
    if not output.parent.is_dir() or output.is_dir():
        raise UsageError(f"--output {output} is no file in a folder that exists")


def as_json(dataset: PackedDataset, findings: list[Finding]) -> dict[str, Any]:
    """Return the findings as a JSON document, with all images."""
    return {"dataset": dataset.info.reference, "findings": [asdict(finding) for finding in findings]}


def _thumbnails(dataset: PackedDataset, rows: list[int]) -> dict[int, str]:
    """Return images by their row in the manifest, as data URIs."""
    found, first = {}, 0
    for split, count in dataset.info.counts.items():
        images = dataset.images(split)
        for row in rows:
            if first <= row < first + count:
                pixels = np.asarray(images[row - first])
                step = max(1, -(-pixels.shape[0] // SIDE))
                data = base64.b64encode(png(np.ascontiguousarray(pixels[::step, ::step]))).decode()
                found[row] = f"data:image/png;base64,{data}"
        first += count
    return found


def _exclude_list(findings: list[Finding]) -> str:
    """Return the suspects as lines for --exclude, all of them commented out: a person decides."""
    lines = [
        "# Remove the first # of a line to leave that image out: raycls data prepare … --exclude THIS_FILE"
    ]
    for finding in findings:
        if finding.images:
            lines += ["#", f"# {finding.title}"]
            lines += [f"#{s.sha256}  # {s.source}: {s.note}" for s in finding.images]
    return "\n".join(lines) + "\n"
