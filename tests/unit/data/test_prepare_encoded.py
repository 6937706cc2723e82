"""A folder that is prepared in shards, and what becomes of its versions: none of its images is encoded twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from raycls.data import options
from raycls.data.contact_sheet import contact_sheet
from raycls.data.forget import forget
from raycls.data.ingest import decode_here
from raycls.data.manifest import read_rows
from raycls.data.packed import PackedDataset
from raycls.data.prepare import prepare
from raycls.data.versions import open_dataset
from raycls.errors import UsageError
from raycls.lifecycle.intake import add
from raycls.lifecycle.next_version import add_uploads
from raycls.lifecycle.review import accept
from raycls.lifecycle.uploads import Uploads
from tests.unit.lifecycle.pictures import CLASSES, digest, png

SIDE, EACH = 96, 20  # the images of train are JPEG from this size on


@pytest.fixture
def folder(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr("raycls.data.prepare.decode_all", decode_here)  # which needs no Ray
    for number, label in enumerate(CLASSES):
        (tmp_path / "pets" / label).mkdir(parents=True)
        for index in range(EACH):
            data = png(1000 * (number + 1) + index, SIDE)
            (tmp_path / "pets" / label / f"{index}.png").write_bytes(data)
    return str(tmp_path / "pets")


def _files(dataset: PackedDataset) -> dict[str, bytes]:
    """Return the encoded images by the digests of their sources."""
    found: list[bytes] = []
    for split, count in dataset.info.counts.items():
        found += dataset.encoded_images(split).encoded(np.arange(count))
    return dict(zip(read_rows(dataset)["sha256"].to_pylist(), found, strict=True))


def test_both_stores_have_the_same_images_and_splits(folder: str) -> None:
    packed, encoded = (prepare(folder, name=store, size=SIDE, store=store) for store in ("packed", "encoded"))
    assert (packed.info.store, encoded.info.store) == ("packed", "encoded")
    assert read_rows(packed) == read_rows(encoded)
    assert np.allclose(packed.info.mean, encoded.info.mean)
    for split in ("val", "gate", "test"):
        assert np.array_equal(packed.images(split), encoded.images(split)[:])
    error = np.asarray(packed.images("train")).astype(int) - encoded.images("train")[:]
    assert 0 < np.abs(error).mean() < 2
    assert np.abs(np.asarray(contact_sheet(packed)).astype(int) - contact_sheet(encoded)).mean() < 1


def test_the_size_decides_and_the_next_version_stays_as_it_is(
    folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(folder, name="few", size=SIDE).info.store == "packed"
    monkeypatch.setattr(options, "PACKED_BYTES", 2 * EACH * SIDE**2 * 3 - 1)
    assert prepare(folder, name="many", size=SIDE).info.store == "encoded"
    assert "--store packed makes the array all the same" in capsys.readouterr().err
    assert prepare(folder, name="few", size=SIDE + 8).info.store == "packed"
    again = prepare(folder, name="few", store="encoded")
    assert (again.info.reference, again.info.store) == ("few@3", "encoded"), (
        "another store is another version"
    )
    assert prepare(folder, name="few").info.reference == "few@3"
    with pytest.raises(UsageError, match="--store tar is unknown: choose one of packed, encoded"):
        prepare(folder, name="few", store="tar")  # type: ignore[arg-type]


def test_uploads_and_forgetting_leave_the_bytes_of_the_others(folder: str) -> None:
    first = prepare(folder, size=SIDE, store="encoded")
    data = [png(seed, SIDE) for seed in (1, 2)]
    add(Uploads(), "pets", [("x", each) for each in data], label="cat", sender="ann")
    accept(Uploads(), "pets", [digest(each) for each in data], by="eve")
    second = add_uploads("pets", trusted=["ann"]).dataset
    assert (second.info.reference, second.info.store) == ("pets@2", "encoded")
    before, after = _files(first), _files(second)
    assert set(after) - set(before) == {digest(each) for each in data}
    assert {sha: after[sha] for sha in before} == before
    gone = read_rows(first)["sha256"][0].as_py()
    assert forget(gone) == ["pets@1", "pets@2"]
    left = open_dataset("pets@2")
    left.verify()
    assert _files(left) == {sha: file for sha, file in after.items() if sha != gone}
    assert left.info.former_fingerprints == (second.info.fingerprint,)
