"""A home that commit 36cccf9 made: today's raycls lists, predicts with, serves, trains on and resumes all of it.

Only the command line and HTTP are used, and nothing of today's code prepares the home. tests/fixtures/README.md says
how it was made.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import sqlite3
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from PIL import Image

ARCHIVE = Path(__file__).parents[1] / "fixtures" / "home-36cccf9.tar.xz"
CONFIG = Path(__file__).parents[2] / "serve_config.yaml"
MADE_AT = "/tmp/raycls-home-36cccf9"
FINGERPRINT = "573904d1912e2c0ce1ef8b5fa67e7f79f9822f574b3ec58cc966872fcd096785"
RUN = "digits-20261128-111147-ca21"  # of six epochs, killed after the third
STUDY = "broken-off"  # of four trials: one is done, two were killed after their first epoch


class OldHome:
    """The unpacked home, and `raycls` on it."""

    def __init__(self, folder: Path):
        self.folder, self.path = folder, folder / "home"
        with tarfile.open(ARCHIVE) as archive:
            archive.extractall(folder, filter="data")
        self._write_arrays(json.loads((folder / "order.json").read_text()))
        _replace_everywhere(self.path / "mlflow.db", MADE_AT, str(self.path))

    def _write_arrays(self, order: dict[str, list[int]]) -> None:
        """Write the arrays that the archive leaves out, byte for byte as 36cccf9 packed them."""
        from sklearn.datasets import load_digits

        digits = load_digits()
        grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
        dataset = self.path / "datasets" / "digits"
        expected = json.loads((dataset / "manifest.json").read_text())["sha256"]
        for split, positions in order.items():
            (dataset / split).mkdir()
            pixels = np.repeat(grey[positions][..., None], 3, axis=3)
            for name, array in (("images", pixels), ("labels", digits.target[positions].astype(np.int64))):
                file = dataset / split / f"{name}.npy"
                np.save(file, np.ascontiguousarray(array))
                assert hashlib.sha256(file.read_bytes()).hexdigest() == expected[f"{split}/{name}.npy"]

    def images(self, count: int) -> tuple[list[str], list[str]]:
        """PNG files of the first test images, and their classes."""
        split = self.path / "datasets" / "digits" / "test"
        files = [str(self.folder / f"{index}.png") for index in range(count)]
        for file, image in zip(files, np.load(split / "images.npy"), strict=False):
            Image.fromarray(image).save(file)
        return files, [str(label) for label in np.load(split / "labels.npy")[:count]]

    def raycls(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "raycls", *arguments],
            env=os.environ | {"RAYCLS_HOME": str(self.path)},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, f"raycls {' '.join(arguments)}\n{done.stdout}\n{done.stderr}"
        return done

    def json(self, *arguments: str) -> Any:
        return json.loads(self.raycls(*arguments, "--json").stdout)

    def lineage(self, name: str, version: str) -> dict[str, str]:
        """The state of each link of a version's lineage."""
        links = self.json("models", "show", name, version)["lineage"]
        return {link["name"]: link["state"] for link in links}


def _replace_everywhere(file: Path, old: str, new: str) -> None:
    """Replace a text in every column of an SQLite file that holds it."""
    with closing(sqlite3.connect(file)) as database, database:
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            for _, column, *_ in database.execute(f'PRAGMA table_info("{table}")').fetchall():
                database.execute(
                    f'UPDATE "{table}" SET "{column}" = replace("{column}", ?, ?) WHERE instr("{column}", ?)',
                    (old, new, old),
                )


@pytest.fixture
def old() -> Iterator[OldHome]:
    # Not pytest's tmp_path: the paths of Ray's sockets have a length limit.
    with tempfile.TemporaryDirectory(prefix="raycls-test-") as folder:
        yield OldHome(Path(folder))


def test_what_is_in_an_old_home_is_found(old: OldHome) -> None:
    (dataset,) = old.json("data", "list")
    assert (dataset["name"], dataset["fingerprint"]) == ("digits", FINGERPRINT)

    models = {model["model"]: model for model in old.json("models")}
    assert {name: model["aliases"] for name, model in models.items()} == {
        "digits/1": ["champion"],
        "digits-tuned/1": ["champion"],
    }
    assert models["digits/1"]["test_accuracy"] == 1.0
    links = ["dataset", "study", "trial", "run", "checkpoint"]
    assert old.lineage("digits-tuned", "1") == dict.fromkeys(links, "verified")

    compared = old.json("models", "compare", "digits-tuned/1", "digits/1")
    assert (compared["dataset"], compared["split"], compared["pictures"]) == ("digits@1", "val", 359)
    assert any("no split gate" in remark for remark in compared["remarks"])
    assert old.json("models", "history", "digits") == []

    trials = old.json("tune", "show", STUDY)["trials"]
    assert [trial["state"] for trial in trials] == ["done", "running", "running"]

    images, classes = old.images(20)
    answers = old.json("predict", "digits", *images)["predictions"]
    assert [answer["class_name"] for answer in answers] == classes
    assert {answer["model_version"] for answer in answers} == {"1"}


def test_its_dataset_is_version_1_and_is_not_prepared_again(old: OldHome) -> None:
    made = old.json("data", "prepare", "digits")
    assert (made["version"], made["fingerprint"]) == (1, FINGERPRINT)
    assert (
        old.json("data", "show", "digits@1", "--sheet", str(old.folder / "sheet.png"))["counts"]["val"] == 359
    )


@pytest.mark.long
@pytest.mark.timeout(900)
def test_an_old_home_is_served_trained_on_and_resumed(old: OldHome) -> None:
    (image,), (expected,) = old.images(1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    try:
        up = old.json("up", "--detach", "--model", "digits", "--config", str(CONFIG), "--port", port)
        answer = requests.post(f"{up['url']}/predict", Path(image).read_bytes(), timeout=30)
        assert answer.status_code == 200, answer.text
        assert (answer.json()["class_name"], answer.json()["model_version"]) == (expected, "1")

        # All that follows runs on the same cluster.
        trained = old.json(
            "train",
            "digits",
            "--init",
            "digits",
            "--preset",
            "smoke",
            "--set",
            "epochs=1",
            "--set",
            "lr=0.01",
        )
        assert trained["model"] == "digits/2"
        # From scratch, an epoch at this learning rate classifies about a third right.
        assert trained["val_accuracy"] > 0.9

        resumed = old.raycls("train", "digits", "--resume", RUN, "--json")
        assert re.findall(r"epoch (\d)/6 ", resumed.stderr) == ["4", "5", "6"]
        assert json.loads(resumed.stdout)["model"] == "digits-resumed/1"

        before = old.json("tune", "show", STUDY)["trials"]
        outcome = old.json("tune", "digits", "--resume", STUDY)
        trials = outcome["trials"]
        assert [(trial["state"], trial["epochs"]) for trial in trials] == [("done", 2)] * 4
        assert trials[0] == before[0]
        assert [trial["values"] for trial in trials[1:3]] == [trial["values"] for trial in before[1:]]
        assert outcome["model"] == "digits-studied/1"
        assert set(old.lineage("digits-studied", "1").values()) == {"verified"}

        answer = requests.post(f"{up['url']}/predict", Path(image).read_bytes(), timeout=30)
        assert (answer.status_code, answer.json()["model_version"]) == (200, "1")
    finally:
        old.raycls("down")
