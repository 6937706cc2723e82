"""What the check of a dataset finds, and the page and the list that it writes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from raycls.data.check import Finding, check
from raycls.data.exclusion import exclusions_of
from raycls.data.manifest import SCHEMA, read_rows, write_table
from raycls.data.packed import ROWS, PackedDataset
from raycls.errors import UsageError
from raycls.reports import dataset_check
from raycls.reports.dataset_report import as_json, write_report
from tests.datasets import make_version

pytestmark = pytest.mark.usefixtures("home")
SIDE, COUNTS = 16, {"train": 60, "val": 24, "gate": 24, "test": 24}


def made(change: dict[str, np.ndarray] | None = None, **columns: dict[int, object]) -> PackedDataset:
    """Return a dataset of noise in two classes, in turns, of 32×32 pixels before resizing.

    change: other images of a split. columns: what other rows of the manifest have, by their position.
    """
    random = np.random.default_rng(0)
    images = {
        split: random.integers(60, 200, (count, SIDE, SIDE, 3)).astype(np.uint8)
        for split, count in COUNTS.items()
    }
    images |= change or {}
    labels = {split: np.arange(count) % 2 for split, count in COUNTS.items()}
    dataset = make_version("noise", images, labels, ("cat", "dog"))
    rows = read_rows(dataset).to_pydict()
    rows["width"] = rows["height"] = [32] * sum(COUNTS.values())
    for name, values in columns.items():
        rows[name] = [values.get(row, value) for row, value in enumerate(rows[name])]
    write_table(pa.table(rows, schema=SCHEMA), dataset.path / ROWS)
    return dataset


def found(dataset: PackedDataset, probabilities: np.ndarray | None = None) -> dict[str, Finding]:
    return {finding.title: finding for finding in check(dataset, probabilities)}


def sources(finding: Finding) -> list[str]:
    return [suspect.source for suspect in finding.images]


def test_a_dataset_without_faults_has_no_findings() -> None:
    assert found(made()) == {}


def test_bad_pictures_are_told_apart() -> None:
    val = made().images("val").copy()
    val[3] = 128
    val[5] = val[5] // 8
    val[7] = 255 - val[7] // 8
    ramp = np.linspace(60, 200, SIDE)
    val[9] = np.add.outer(ramp, ramp)[..., None] / 2
    findings = found(made({"val": val}, width={60: 6, 61: 100}, height={60: 6}))
    assert {title: sources(finding) for title, finding in findings.items()} == {
        "Blank pictures": ["val/3"],
        "Dark pictures": ["val/5"],
        "Bright pictures": ["val/7"],
        "Blurred pictures": ["val/9"],
        "Tiny pictures": ["val/0"],
        "Pictures of odd shape": ["val/1"],
    }


def test_copies_within_and_across_splits_and_a_file_with_two_labels() -> None:
    findings = found(
        made(
            group={2: "same", 130: "same", 4: "burst", 6: "burst", 8: "file", 9: "file"},
            sha256={8: "d" * 64, 9: "d" * 64},
        )
    )
    assert sources(findings["Copies across splits"]) == ["test/22"]
    assert findings["Copies across splits"].images[0].note == "almost the same as train/2"
    assert sources(findings["Copies and groups within a split"]) == ["train/6", "train/9"]
    assert sources(findings["The same file with two labels"]) == ["train/9"]


def test_small_classes_and_a_split_without_a_class() -> None:
    noise = made()
    dataset = make_version(
        "few",
        {split: noise.images(split)[:24] for split in COUNTS},
        {split: np.r_[np.zeros(22, int), 1, 1] if split != "test" else np.zeros(24, int) for split in COUNTS},
        ("cat", "dog"),
    )
    findings = found(dataset)
    assert findings["Classes with few images"].sentences == ["dog has 6 images; the median class has 48"]
    assert findings["Splits without a class"].sentences == ["test has no image of dog"]


def test_a_split_of_darker_pictures() -> None:
    (sentence,) = found(made({"test": made().images("test") // 2}))["Splits of different pictures"].sentences[
        :1
    ]
    assert sentence == ("brightness differs between train (median 129) and test (median 64)")


def test_labels_and_classes_with_predictions() -> None:
    dataset = made()
    labels = np.concatenate([dataset.labels(split) for split in COUNTS])
    probabilities = np.eye(2)[labels] * 0.8 + 0.1
    probabilities[[5, 100]] = probabilities[[5, 100], ::-1]
    probabilities[100] = [0.95, 0.05] if labels[100] else [0.05, 0.95]
    finding = found(dataset, probabilities)["Probable label errors"]
    assert sources(finding) == ["gate/16", "train/5"]
    assert finding.images[1].note == "labelled dog (10%), looks like cat (90%)"

    half = labels == 1
    probabilities[half & (np.arange(len(labels)) % 4 == 1)] = [0.6, 0.4]
    assert found(dataset, probabilities)["Confused classes"].sentences == ["50% of dog look like cat"]


def test_the_page_shows_the_pictures_and_its_list_excludes_them(tmp_path: Path) -> None:
    val = made().images("val").copy()
    val[3] = 128
    dataset = made({"val": val}, source={63: "<script>alert(1)</script>.png"})
    findings = check(dataset, None)
    page, excluded = write_report(dataset, findings, tmp_path / "check.html", predictions="Nobody predicted.")
    html = page.read_text()
    assert "Blank pictures: 1" in html
    assert "Nobody predicted." in html
    assert html.count("data:image/png;base64,") == 1
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.png" in html
    assert json.loads(json.dumps(as_json(dataset, findings)))["findings"][0]["images"][0]["index"] == 63

    digest = findings[0].images[0].sha256
    nothing = exclusions_of("noise", excluded)
    assert not nothing.kind_of(digest, "any.png"), "a person decides"
    excluded.write_text(excluded.read_text().replace(f"#{digest}", digest))
    chosen = exclusions_of("noise", excluded)
    assert chosen.kind_of(digest, "any.png")
    assert not chosen.kind_of("0" * 64, "other.png")


@pytest.mark.parametrize(
    ("preset", "output", "complaint"),
    [
        ("nonee", "check.html", "unknown preset 'nonee'.*accurate, none"),
        ("none", "gone/check.html", "is no file in a folder"),
    ],
)
def test_what_cannot_be_done_is_told_before_anything_is_computed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str, output: str, complaint: str
) -> None:
    made()
    monkeypatch.setattr(dataset_check, "check", lambda *_: pytest.fail("it was computed"))
    monkeypatch.setattr(dataset_check, "out_of_fold", lambda *_: pytest.fail("it was trained"))
    with pytest.raises(UsageError, match=complaint):
        dataset_check.run_check("noise", model=None, folds=2, preset_name=preset, output=tmp_path / output)
