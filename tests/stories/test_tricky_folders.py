"""Folders that people met elsewhere: every file is used, left out and named, or ignored, as it should be.

The generator and its manifest lie beside the checkout. It says for each file whether it must be used (`ok`), must be
left out and named (`bad`), is no image (`ignore`), or may be either.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from raycls.data.class_names import ClassNames, printable
from raycls.data.manifest import read_left_out, read_rows
from raycls.data.packed import PackedDataset
from raycls.data.prepare import prepare
from raycls.errors import DataError

GENERATOR = Path(__file__).parents[2].parent / "shared" / "cases" / "gen_folders.py"
NAMES = (
    "mac_litter", "names_numbers", "names_not_utf8", "names_nfc_nfd", "split_nfc_nfd", "symlinks", "special_files",
    "nested", "wrapped", "split_missing_class", "twins", "batch_of_one", "wrong_suffix", "broken_files",
    "exif_broken", "modes", "big_metadata",
)  # fmt: skip
REFUSED = {
    "empty_class": "too few files in 1 classes: emu has 1",
    "names_case": "the classes Cat and cat differ only in upper and lower case",
    "single_image_class": "too few files in 2 classes: dog has 1, fox has 2",
    "split_extra_class": "train has no image of class doe",
}
FAR = 25  # grey levels between a colour as it should be and as it is

pytestmark = [
    pytest.mark.usefixtures("home", "ray_session"),
    pytest.mark.skipif(not GENERATOR.is_file(), reason="the generator beside the checkout is not there"),
]


@pytest.fixture(scope="module")
def folders() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, str(GENERATOR), folder], check=True, capture_output=True)
        yield Path(folder)
        subprocess.run(["chmod", "-R", "u+rwX", folder], check=False)


def _expected(folders: Path, name: str) -> Any:
    return json.loads((folders / "MANIFEST.json").read_text())[name]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", NAMES)
def test_a_tricky_folder(folders: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "raycls.data.prepare.MAX_UNREADABLE", 1
    )  # some folders hold more bad files than good ones
    expected = _expected(folders, name)
    dataset = prepare(str(folders / name), size=32)
    assert dataset.info.classes == ClassNames.of(expected["classes"]).classes
    used = read_rows(dataset)["source"].to_pylist()
    left_out = {row["source"]: row for row in read_left_out(dataset).to_pylist()}
    wrong = []
    for path, entry in expected["files"].items():
        verdict, file = entry["verdict"], printable(path)
        if (
            (verdict == "ok" and file not in used)
            or (verdict == "bad" and file not in left_out and path != "dog/locked.png")  # root reads it
            or (verdict == "ignore" and file in used)
            or (verdict == "either" and file not in used and file not in left_out)
        ):
            wrong.append((path, verdict, left_out.get(file, {}).get("reason")))
    assert not wrong
    _check_colours(
        dataset, used, {printable(path): entry["rgb"] for path, entry in expected["files"].items()}
    )


def _check_colours(dataset: PackedDataset, used: list[str], colours: dict[str, Any]) -> None:
    """The lower right quarter of an image that is read properly has a known colour."""
    pixels = np.concatenate([dataset.images(split) for split in dataset.info.counts])
    corners = pixels[:, -8:, -8:].reshape(len(pixels), -1, 3).mean(1)
    off = {
        file: corner.round().tolist()
        for file, corner in zip(used, corners, strict=True)
        if colours.get(file) and np.abs(corner - colours[file]).max() > FAR
    }
    assert not off


@pytest.mark.parametrize("name", REFUSED)
def test_a_folder_that_is_refused_by_name(folders: Path, name: str) -> None:
    with pytest.raises(DataError, match=REFUSED[name]):
        prepare(str(folders / name))
