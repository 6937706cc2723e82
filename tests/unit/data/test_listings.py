"""What each kind of source lists: names, labels, splits, groups and places, without decoding an image."""

from __future__ import annotations

import base64
import io
import json
import re
import tarfile
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raycls.data import text_tables
from raycls.data.listing import Listing
from raycls.data.readers import read_all
from raycls.data.sources import Choice, existing, list_source
from raycls.errors import DataError, UsageError

FILES = {
    "cat/1.jpg": b"first cat",
    "cat/2.jpg": b"second cat",
    "dog/3.png": b"a dog",
    "dog/Thumbs.db": b"litter",
    "__MACOSX/cat/._1.jpg": b"litter",
    "notes.txt": b"beside the classes",
}


def listed(source: Path | str, choice: Choice | None = None) -> Listing:
    return list_source(existing(str(source)), choice or Choice())


def contents(listing: Listing) -> dict[str, tuple[str, bytes]]:
    """{source: (label, bytes)}, read as the decoding tasks do."""
    found = dict(read_all(listing.wheres))
    read = [found[where] for where in listing.wheres]
    assert all(isinstance(data, bytes) for data in read), read
    return dict(zip(listing.sources, zip(listing.labels, read, strict=True), strict=True))  # type: ignore[arg-type]


def folder_of(path: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def zip_of(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def tar_of(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


@pytest.mark.parametrize("kind", ["folder", "file://", "zip", "tar", "tar.gz", "tar.bz2"])
def test_class_folders_wherever_they_are(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"pets.{kind}"
    if kind == "zip":
        source: Path | str = zip_of(path, FILES)
    elif kind.startswith("tar"):
        source = tar_of(path, FILES, "w:" + kind.removeprefix("tar").removeprefix("."))
    else:
        source = folder_of(tmp_path / "pets", FILES)
        source = source.as_uri() if kind == "file://" else source
    listing = listed(source)
    assert contents(listing) == {
        "cat/1.jpg": ("cat", b"first cat"),
        "cat/2.jpg": ("cat", b"second cat"),
        "dog/3.png": ("dog", b"a dog"),
    }
    assert listing.left_out == [("notes.txt", "ignored", "in no class folder")]
    assert listing.ignored == (3 if kind == "folder" else 2) - (kind == "folder")


def test_an_archive_in_a_folder_of_its_name_with_its_own_splits(tmp_path: Path) -> None:
    files = {
        f"pets/{split}/{label}/0.png": b"x"
        for split in ("train", "Valid", "test")
        for label in ("cat", "dog")
    }
    listing = listed(zip_of(tmp_path / "pets.zip", files))
    assert sorted(set(zip(listing.splits, listing.labels, strict=True))) == sorted(
        (split, label) for split in ("train", "val", "test") for label in ("cat", "dog")
    )


@pytest.mark.parametrize("path", ["../outside.png", "/etc/passwd", "cat/../../x.png"])
def test_names_in_an_archive_lead_nowhere(tmp_path: Path, path: str) -> None:
    """Nothing is unpacked, so such a name is only a name; the bytes are those in the archive."""
    listing = listed(zip_of(tmp_path / "pets.zip", {path: b"inside", "cat/1.png": b"c", "dog/1.png": b"d"}))
    read = dict(zip(listing.sources, (data for _, data in read_all(listing.wheres)), strict=True))
    assert set(read.values()) <= {b"inside", b"c", b"d"}


def test_links_in_an_archive_are_not_followed(tmp_path: Path) -> None:
    path = tmp_path / "pets.tar"
    with tarfile.open(path, "w") as archive:
        link = tarfile.TarInfo("cat/passwd.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
        for name in ("cat/1.png", "dog/1.png"):
            member = tarfile.TarInfo(name)
            member.size = 1
            archive.addfile(member, io.BytesIO(b"x"))
    listing = listed(path)
    assert listing.sources == ["cat/1.png", "dog/1.png"]
    assert listing.left_out == [("cat/passwd.png", "unreadable", "a link or a special file in an archive")]


@pytest.mark.parametrize("name", ["pets.zip", "pets.tar", "pets.tar.gz"])
def test_a_damaged_archive_is_told(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"nothing like an archive" * 100)
    with pytest.raises(DataError, match=f"{name} cannot be read as an archive"):
        listed(tmp_path / name)


def test_labels_and_groups_are_chosen(tmp_path: Path) -> None:
    files = {f"animal/{kind}/patient_{n}/{n}.png": b"x" for kind in ("cat", "dog") for n in (1, 2)}
    files["plant/rose/patient_3/0.png"] = b"y"
    folder = folder_of(tmp_path / "things", files)
    assert set(listed(folder).labels) == {"animal", "plant"}
    assert set(listed(folder, Choice(labels="leaf")).labels) == {"patient_1", "patient_2", "patient_3"}
    assert "animal/cat/patient_1" in listed(folder, Choice(labels="path")).labels
    grouped = listed(folder, Choice(group_by=re.compile(r"patient_(\d)")))
    assert grouped.groups == ["1", "2", "1", "2", "3"]


TABLE = {
    "path": ["cat/1.jpg", "cat/2.jpg", "dog/3.png"],
    "label": ["cat", "cat", "dog"],
    "split": ["train", "test", "train"],
    "group": ["a", "a", "b"],
}


def table_of(folder: Path, kind: str, columns: dict[str, list[object]]) -> Path:
    path = folder / f"pets.{kind}"
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if kind == "csv":
        lines = [",".join(columns), *(",".join(str(value or "") for value in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    elif kind == "jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.table(columns), path, row_group_size=2)
    return path


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_of_paths(tmp_path: Path, kind: str) -> None:
    folder_of(tmp_path, FILES)
    listing = listed(table_of(tmp_path, kind, dict(TABLE)))
    assert contents(listing)["dog/3.png"] == ("dog", b"a dog")
    assert (listing.splits, listing.groups) == (["train", "test", "train"], ["a", "a", "b"])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_a_table_of_bytes(tmp_path: Path, kind: str) -> None:
    pixels = [FILES[path] for path in TABLE["path"]]
    values: list[object] = list(pixels)
    if kind != "parquet":
        values = [base64.b64encode(data).decode() for data in pixels]
    listing = listed(table_of(tmp_path, kind, {"bytes": values, "label": list(TABLE["label"])}))
    assert [data for _, data in read_all(listing.wheres)] == pixels
    assert listing.sources == [f"pets.{kind}, row {row}" for row in range(3)]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_table_of_text_is_read_in_blocks(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(text_tables, "BLOCK", 256)  # two or three rows
    encoded = [base64.b64encode(bytes([i]) * 40).decode() for i in range(30)]
    encoded[7] = "no base64!"
    labels = [f"class-{i % 3}" if i % 5 else None for i in range(30)]
    listing = listed(table_of(tmp_path, kind, {"bytes": encoded, "label": labels}))
    assert [entry[0] for entry in listing.left_out] == [f"pets.{kind}, row {row}" for row in range(0, 30, 5)]
    found = {where[4]: data for where, data in read_all(listing.wheres[::-1])}
    assert isinstance(found.pop(7), OSError)
    assert found == {i: bytes([i]) * 40 for i in range(30) if i % 5 and i != 7}


def test_numbers_in_a_csv_stay_the_text_that_they_are(tmp_path: Path) -> None:
    path = table_of(tmp_path, "csv", {"path": ["1", "2", "3"], "label": ["007", "1.0", "1"]})
    assert listed(path).labels == ["007", "1.0", "1"]


@pytest.mark.parametrize(
    ("columns", "complaint"),
    [
        ({"path": ["a"]}, "has the columns path: it needs label, and path or bytes"),
        ({"label": ["a"], "file": ["b"]}, "has the columns label, file: it needs label"),
        ({"label": ["a"], "image": ["b"]}, "has the columns label, image: it needs label, and path or bytes"),
        ({"path": ["a"], "label": ["b"], "split": ["holdout"]}, "row 0: 'holdout' is no split"),
    ],
)
def test_what_a_table_lacks_is_told(tmp_path: Path, columns: dict[str, list[object]], complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        listed(table_of(tmp_path, "csv", columns))


def test_a_row_without_a_label_is_left_out(tmp_path: Path) -> None:
    listing = listed(table_of(tmp_path, "parquet", {"path": ["a", "b", "c"], "label": ["cat", None, "dog"]}))
    assert listing.labels == ["cat", "dog"]
    assert listing.left_out == [("pets.parquet, row 1", "unreadable", "no label")]


def test_webdataset_shards(tmp_path: Path) -> None:
    tar_of(
        tmp_path / "000.tar",
        {"a.jpg": b"A", "a.cls": b"cat", "b.seg.png": b"B", "b.json": b'{"label": "dog"}'},
    )
    tar_of(
        tmp_path / "001.tar",
        {
            "c.jpg": b"C",
            "c.json": b'{"label": 7, "split": "test", "group": "g"}',
            "c.pkl": b"\x80never unpickled",
        },
    )
    listing = listed(tmp_path)
    assert contents(listing) == {
        "000.tar: a.jpg": ("cat", b"A"),
        "000.tar: b.seg.png": ("dog", b"B"),
        "001.tar: c.jpg": ("7", b"C"),
    }
    assert (listing.splits[2], listing.groups[2]) == ("test", "g")
    alone = listed(tmp_path / "000.tar")
    assert alone.labels == ["cat", "dog"]
    tar_of(tmp_path / "002.tar", {"d.jpg": b"D"})
    with pytest.raises(DataError, match=r"002\.tar: d has no label"):
        listed(tmp_path)


def hugging_face(names: list[str]) -> pa.Schema:
    features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    image = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    return pa.schema({"image": image, "label": pa.int64()}, metadata=metadata)


def records(count: int) -> list[dict[str, object]]:
    return [{"image": {"bytes": f"image {n}".encode(), "path": None}, "label": n % 2} for n in range(count)]


def test_a_saved_dataset_of_hugging_face(tmp_path: Path) -> None:
    schema = hugging_face(["cat", "dog"])
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "state.json").write_text('{"_data_files": [{"filename": "data-00000.arrow"}]}')
        with (
            pa.OSFile(str(tmp_path / split / "data-00000.arrow"), "wb") as file,
            pa.ipc.new_stream(file, schema) as out,
        ):
            for batch in pa.Table.from_pylist(records(5), schema).to_batches(max_chunksize=2):
                out.write_batch(batch)
    listing = listed(tmp_path)
    assert [data for _, data in read_all(listing.wheres)] == [f"image {n}".encode() for n in range(5)] * 2
    assert listing.labels == ["cat", "dog", "cat", "dog", "cat"] * 2
    assert listing.splits == ["train"] * 5 + ["test"] * 5


def test_a_folder_of_parquet_files_as_the_hub_has_them(tmp_path: Path) -> None:
    schema = hugging_face(["cat", "dog"])
    (tmp_path / "data").mkdir()
    (tmp_path / "README.md").write_text("a card")
    for name in ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"):
        pq.write_table(
            pa.Table.from_pylist(records(3), schema), tmp_path / "data" / f"{name}.parquet", row_group_size=2
        )
    listing = listed(tmp_path)
    assert [data for _, data in read_all(listing.wheres)] == [b"image 0", b"image 1", b"image 2"] * 3
    assert (set(listing.labels), listing.splits.count("val")) == ({"cat", "dog"}, 3)


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("nowhere", "nowhere does not exist: a source is cifar10, digits, a folder of class folders"),
        ("movie.mp4", "is no source: give a folder of class folders"),
        ("file:///nowhere/at/all", "does not exist"),
        ("nonsense://bucket/x", "nonsense://bucket/x cannot be opened"),
    ],
)
def test_what_is_no_source_is_told(
    tmp_path: Path, source: str, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "movie.mp4").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=complaint):
        existing(source)


def test_a_compressed_tar_in_any_order_keeps_each_image_with_its_label(tmp_path: Path) -> None:
    files = {
        "p/dog/1.jpg": b"dog 1",
        "p/cat/1.jpg": b"cat 1",
        "p/dog/0.jpg": b"dog 0",
        "p/cat/0.jpg": b"cat 0",
    }
    found = contents(listed(tar_of(tmp_path / "p.tgz", files, "w:gz")))
    assert found == {name: (name.split("/")[1], data) for name, data in files.items()}


def test_labels_without_a_name_are_no_class(tmp_path: Path) -> None:
    schema = hugging_face(["cat", "dog"])
    rows = [{"image": {"bytes": b"x", "path": None}, "label": label} for label in (0, -1, None, 2, 1)]
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "pets.parquet")
    listing = listed(tmp_path / "pets.parquet")
    assert listing.labels == ["cat", "dog"]
    assert [reason for _, _, reason in listing.left_out] == ["no label"] * 3


def test_groups_are_found_in_the_names_of_a_table_s_rows(tmp_path: Path) -> None:
    path = table_of(tmp_path, "csv", {"path": ["patient_1/a.png", "patient_2/a.png"], "label": ["x", "y"]})
    assert listed(path, Choice(group_by=re.compile(r"(a\d+)|patient_(\d)"))).groups == ["1", "2"]
    with pytest.raises(UsageError, match="--labels is for folders"):
        listed(path, Choice(labels="leaf"))


def test_the_folders_of_the_hub_s_own_copy_are_splits(tmp_path: Path) -> None:
    schema = hugging_face(["cat", "dog"])
    for split in ("train", "test"):
        (tmp_path / "default" / split).mkdir(parents=True)
        pq.write_table(
            pa.Table.from_pylist(records(2), schema), tmp_path / "default" / split / "0000.parquet"
        )
    assert sorted(map(str, listed(tmp_path).splits)) == ["test", "test", "train", "train"]
    (tmp_path / "default/train/0000.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match=r"0000\.parquet cannot be read as a table"):
        listed(tmp_path)


def test_a_damaged_member_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "pets.zip", {"cat/1.jpg": b"c" * 5000, "dog/1.jpg": bytes(range(256)) * 40})
    data = bytearray(path.read_bytes())
    at = data.index(b"dog/1.jpg") + 20
    data[at : at + 40] = b"\xff" * 40
    path.write_bytes(data)
    read = [data for _, data in read_all(listed(path).wheres)]
    assert read[0] == b"c" * 5000
    assert isinstance(read[1], OSError)


def test_notes_beside_images_in_a_tar_make_no_webdataset(tmp_path: Path) -> None:
    files = {"cat/1.jpg": b"c", "cat/1.json": b'{"camera": 3}', "dog/1.jpg": b"d", "dog/1.json": b"{}"}
    listing = listed(tar_of(tmp_path / "photos.tar", files))
    assert {"cat", "dog"} == set(listing.labels)
    shard = {"a.depth.png": b"depth", "a.jpg": b"A", "a.cls": b"cat", "._a.jpg": b"litter"}
    assert contents(listed(tar_of(tmp_path / "shard.tar", shard))) == {"shard.tar: a.jpg": ("cat", b"A")}


def test_a_table_is_read_from_its_beginning_however_far_a_reader_of_its_names_has_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """pyarrow reads ahead in a thread. It must not move the file that the rows are read from."""
    monkeypatch.setattr(text_tables, "BLOCK", 256)
    path = table_of(tmp_path, "csv", {"path": [f"{i}.png" for i in range(200)], "label": ["a"] * 200})
    rows = [name for block in text_tables.text_blocks(str(path), ("path",)) for name in block["path"]]
    assert rows == [f"{i}.png" for i in range(200)]
    opened: list[object] = []
    plain = text_tables.open_file
    monkeypatch.setattr(text_tables, "open_file", lambda each: opened.append(plain(each)) or opened[-1])
    list(text_tables.text_blocks(str(path), ("path",)))
    assert len({id(file) for file in opened}) == 2
