"""`raycls evaluate`: on the model's data and on other data, and the report as people get it."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raycls import registry, tracking
from raycls.cli import run
from raycls.config import override
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_dataset
from raycls.registry import ModelVersion
from raycls.training.filing import TrainingResult
from raycls.training.loop import fit
from raycls.training.presets import preset
from tests.datasets import make_version


class _Page(HTMLParser):
    """What a browser would load, where links lead, and the text by heading."""

    def __init__(self, html: str):
        super().__init__()
        self.sources: list[str] = []
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.words = ""
        self.rows = 0
        self.feed(html)
        self.words = " ".join(self.words.split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name in ("src", "srcset"):
                self.sources.append((value or "").split()[0])
            elif name == "href":
                self.links.append(value or "")
            elif name == "id":
                self.ids.add(value or "")
        self.rows += tag == "tr"

    def handle_data(self, data: str) -> None:
        self.words += f" {data}"


def _read(path: Path) -> _Page:
    """The page, once everything that it shows was found inside it and to be a picture."""
    html = path.read_text()
    page = _Page(html)
    for source in page.sources:
        prefix, data = source.split(",", 1)
        assert prefix == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(data))).verify()
    assert {link.removeprefix("#") for link in page.links} <= page.ids
    without_pictures = re.sub(r"data:image/png;base64,\S*", "", html)
    assert not re.search(r"//\w|url\(|@import|<script|<link", without_pictures)
    return page


def _many_classes() -> PackedDataset:
    """Coloured noise in 24 classes, two of them without a test image."""
    labels = {"train": np.arange(240) % 24, "val": np.arange(48) % 24, "test": np.arange(66) % 22}
    rng = np.random.default_rng(0)
    ground = rng.integers(60, 190, (24, 1, 1, 3))
    images = {
        split: (ground[of] + rng.integers(-50, 50, (len(of), 16, 16, 3))).astype(np.uint8)
        for split, of in labels.items()
    }
    return make_version("hues", images, labels, tuple(f"hue {i}" for i in range(24)))


def _register(name: str, dataset: PackedDataset, network: str, folder: Path) -> ModelVersion:
    """A model trained in this process; its run logs one epoch's curve."""
    config = override(preset("smoke", dataset.info, network), ["epochs=1"])
    with tracking.run(name, "run", {}) as current:
        metrics: dict[str, float] = {}

        def on_epoch(epoch_metrics, snapshot) -> None:
            snapshot.save(folder)
            metrics.update(epoch_metrics)

        fit(config, dataset, on_epoch=on_epoch)
        current.log_metrics(metrics, step=1)
        return registry.register(
            name, current, folder, fingerprint=dataset.info.fingerprint, metrics=metrics, lineage={}
        )


def test_the_report_of_a_model(
    trained: TrainingResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained.version is not None
    path = tmp_path / "digits.html"
    assert run(["evaluate", trained.version.reference, "--report", "--output", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["test_accuracy"] == pytest.approx(trained.metrics["test_accuracy"])
    assert told["report"] == str(path)

    page = _read(path)
    words = page.words
    assert f"{trained.version.reference} on digits/test" in words
    assert f"{100 * trained.metrics['test_accuracy']:.1f}%" in words
    for heading in ("Figures", "Reliability", "Confusion matrix", "Class by class", "How it was trained",
                    "Most confidently wrong", "Where it looks", "Filters of the first layer", "Robustness",
                    "Near-duplicates"):  # fmt: skip
        assert heading in words
    assert "Grad-CAM at the layer" in words
    assert ", taken for " in words
    assert len(page.sources) > 40

    artifacts = Path(registry.checkpoint(trained.version)).parent / "report" / "digits-test"
    assert (artifacts / "index.html").read_bytes() == path.read_bytes()
    report = json.loads((artifacts / "report.json").read_text())
    assert report["figures"]["accuracy"] == pytest.approx(trained.metrics["test_accuracy"])
    assert [row["epoch"] for row in report["history"]] == [1, 2, 3, 4, 5]
    assert report["fit"]["val_accuracy"] == pytest.approx(trained.metrics["val_accuracy"])
    assert len(report["robustness"]["rows"]) == 5
    pictures = {str(each.relative_to(artifacts)) for each in artifacts.rglob("*.png")}
    assert {"charts/reliability-light.png", "charts/confusion-dark.png", "charts/curve-loss-light.png",
            "filters.png", "wrong/01.png", "cam_wrong/01.png", "feature_maps/01.png"} <= pictures  # fmt: skip


def test_many_classes_and_a_network_without_places(digits_home: Path, tmp_path: Path) -> None:
    version = _register("hues", _many_classes(), "mlp", tmp_path / "checkpoint")
    path = tmp_path / "hues.html"
    assert run(["evaluate", version.reference, "--report", "--output", str(path)]) == 0
    page = _read(path)
    assert "mlp has no convolution" in page.words
    assert "The 10 weakest of 24" in page.words
    assert "All 24 classes" in page.words
    assert page.words.count("no image of it in the split") == 2  # in the long table alone
    assert "These are the images that the model was trained on" not in page.words

    assert run(["evaluate", version.reference, "--split", "train", "--report", "--output", str(path)]) == 0
    assert "These are the images that the model was trained on" in _read(path).words


def test_another_dataset(trained: TrainingResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digits = open_dataset("digits")
    images, labels, names = digits.images("test"), digits.labels("test"), digits.info.classes
    chosen = np.flatnonzero(labels < 3)
    splits = ("train", "val", "test")
    make_version(
        "three",
        dict.fromkeys(splits, images[chosen].repeat(2, 1).repeat(2, 2)),
        dict.fromkeys(splits, (labels[chosen] + 2) % 3),
        (names[1], "else", names[2]),
        mirrorable=False,
    )
    path = tmp_path / "three.html"
    command = ["evaluate", "digits", "--dataset", "three", "--report", "--output", str(path), "--json"]
    assert run(command) == 0
    printed = capsys.readouterr()
    told = json.loads(printed.out)
    assert told["dataset"] == "three"
    assert told["classes"] == [names[1], names[2]]
    assert told["dataset_only_classes"] == ["else"]
    assert np.sum(told["confusion"]) == np.isin(labels, (1, 2)).sum()
    assert "images left out: else" in printed.err
    assert "Note: classes of three alone, their images left out: else" in _read(path).words
    assert trained.version is not None
    run_folder = Path(registry.checkpoint(trained.version)).parent
    assert (run_folder / "report" / "three-test" / "index.html").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--output", "page.html"], "add --report"),
        (["--report", "--output", "nowhere/page.html"], "no file in a folder that exists"),
        (["--dataset", "nope"], "raycls data prepare"),
        (["--split", "nope"], "train, val, gate, test"),
    ],
)
def test_wrong_use_is_told_in_one_line(
    trained: TrainingResult, options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["evaluate", "digits", *options]) == 2
    assert told in capsys.readouterr().err.splitlines()[-1]
