"""Zips that a stranger made: what is ordinary is read, everything else is refused, and nothing is trusted."""

from __future__ import annotations

import io
import stat
import struct
import warnings
import zipfile
from collections.abc import Callable

import numpy as np
import pytest

from raycls.errors import RayclsError, UploadError, UploadTooLargeError
from raycls.lifecycle.archives import Archive, opened_zip
from raycls.lifecycle.limits import UploadLimits

SMALL = UploadLimits(picture_bytes=1000, unpacked_bytes=10_000, entries=50, files=20, archive_bytes=100_000)


def zipped(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def read(
    data: bytes, limits: UploadLimits = SMALL
) -> tuple[dict[str, tuple[str, bytes]], dict[str, str], Archive]:
    """Return label and bytes of each file, the reason of each refused one, and the archive."""
    with opened_zip(io.BytesIO(data), limits) as archive:
        files = {entry.name: (entry.label, archive.read(entry)) for entry in archive.entries}
        return files, {refused.file: refused.reason for refused in archive.refused}, archive


def test_class_folders_are_read_also_inside_a_single_folder() -> None:
    expected = {"cat/1.png": ("cat", b"one"), "dog/old/2.png": ("dog", b"two")}
    files, refused, _ = read(zipped({"cat/": b"", "cat/1.png": b"one", "dog/old/2.png": b"two"}))
    assert (files, refused) == (expected, {})
    inside, _, _ = read(zipped({f"pets/{name}": data for name, (_, data) in expected.items()}))
    assert inside == {f"pets/{name}": value for name, value in expected.items()}


def test_what_programs_leave_behind_is_ignored_and_what_has_no_class_is_refused() -> None:
    data = zipped(
        {
            "__MACOSX/cat/._1.png": b"x",
            "cat/.DS_Store": b"x",
            "cat/1.png": b"x",
            "dog/2.png": b"x",
            "3.png": b"x",
        }
    )
    files, refused, archive = read(data)
    assert sorted(files) == ["cat/1.png", "dog/2.png"]
    assert archive.ignored == 2
    assert refused == {"3.png": "in no class folder"}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("../cat/1.png", "its path is absolute"),
        ("cat/../../1.png", "its path is absolute"),
        ("/cat/1.png", "its path is absolute"),
        ("C:/cat/1.png", "its path is absolute"),
        ("cat\\1.png", "its path is absolute"),
        ("cat//1.png", "its path is absolute"),
        ("./cat/1.png", "its path is absolute"),
        ("cat/" + "x" * 600, "its path is too long"),
        ("x/" * 30 + "1.png", "its path is too long"),
        ("cat/inner.zip", "an archive in an archive"),
        ("cat/inner.TAR.gz", "an archive in an archive"),
    ],
)
def test_odd_paths_are_refused_and_the_others_taken(name: str, reason: str) -> None:
    files, refused, _ = read(zipped({name: b"x", "cat/fine.png": b"fine", "dog/fine.png": b"fine"}))
    assert sorted(files) == ["cat/fine.png", "dog/fine.png"]
    ((shown, told),) = refused.items()
    assert told.startswith(reason)
    assert len(shown) <= 201


def test_links_and_devices_are_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for kind in (stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR):
            member = zipfile.ZipInfo(f"cat/{kind}.png")
            member.external_attr = (kind | 0o777) << 16
            archive.writestr(member, "/etc/passwd")
    files, refused, _ = read(buffer.getvalue())
    assert files == {}
    assert set(refused.values()) == {"a link or a special file in an archive"}
    assert len(refused) == 3


def test_a_name_with_a_nul_is_not_cut_there() -> None:
    data = zipped({"cat/1.png_hidden": b"x", "dog/2.png": b"x"}).replace(b"1.png_hidden", b"1.png\0hidden")
    files, refused, _ = read(data)
    assert list(files) == ["dog/2.png"]
    assert refused == {"cat/1.png\\x00hidden": "its name has a NUL"}


def test_names_are_told_in_one_line() -> None:
    _, refused, _ = read(zipped({"cat\n/../1\x1b[31m.png": b"x", "dog/2.png": b"x"}))
    assert list(refused) == ["cat\\n/../1\\x1b[31m.png"]


def directory_of(data: bytes) -> int:
    return data.index(b"PK\x01\x02")


def test_encrypted_files_are_refused() -> None:
    data = bytearray(zipped({"cat/1.png": b"x"}))
    data[directory_of(data) + 8] |= 1
    assert read(bytes(data))[1] == {"cat/1.png": "encrypted"}


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_that_expand_without_a_limit_are_refused(method: int) -> None:
    files, refused, _ = read(zipped({"cat/1.png": b"x" * 100_000}, method))
    assert (files, list(refused.values())) == ({}, ["compressed in another way than deflate"])


def test_a_wrong_checksum_and_a_wrong_size_are_refused() -> None:
    data = bytearray(zipped({"cat/1.png": b"hello", "dog/2.png": b"fine"}, zipfile.ZIP_STORED))
    data[data.index(b"hello")] ^= 1
    files, refused, _ = read(bytes(data))
    assert list(files) == ["dog/2.png"]
    assert "damaged in the archive: Bad CRC-32" in refused["cat/1.png"]
    lies = bytearray(zipped({"cat/1.png": b"x" * 5000}))
    struct.pack_into("<I", lies, directory_of(lies) + 24, 10)  # says that it unpacks to 10 bytes
    assert "damaged in the archive" in read(bytes(lies))[1]["cat/1.png"]


def test_a_bomb_is_refused_before_a_file_of_it_is_given_out() -> None:
    bomb = zipped({"cat/fine.png": b"x", "cat/bomb.png": bytes(1 << 20)})
    assert len(bomb) < 5000
    with pytest.raises(UploadTooLargeError, match="unpacks to more than"):
        read(bomb)
    several = zipped({f"cat/{index}.png": bytes(900) for index in range(12)})
    with pytest.raises(UploadTooLargeError, match="unpacks to more than"):
        read(several)


def test_a_file_that_is_too_large_is_given_out_cut() -> None:
    files, _, _ = read(zipped({"cat/1.png": bytes(5000)}))
    assert len(files["cat/1.png"][1]) == 1001


def test_too_many_entries_are_noticed_before_the_directory_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [b"cat/%06d.png" % index for index in range(100_000)]
    entries = b"".join(
        struct.pack("<4s6H3I5H2I", b"PK\x01\x02", *[0] * 9, len(name), *[0] * 6) + name for name in names
    )
    data = entries + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1, 1, len(entries), 0, 0)
    assert len(zipfile.ZipFile(io.BytesIO(data)).infolist()) == 100_000, (
        "the end record says that there is one"
    )
    monkeypatch.setattr(zipfile, "ZipFile", None)
    with pytest.raises(UploadTooLargeError, match="more than 20,000 entries"):
        read(data, UploadLimits())


def test_entries_are_counted_across_the_blocks_of_a_reading() -> None:
    for shift in range(5):
        data = bytes((1 << 20) - shift) + b"PK\x01\x02" * 51
        with pytest.raises(UploadTooLargeError, match="more than 50 entries"):
            read(data, SMALL.model_copy(update={"archive_bytes": 10 << 20}))
        with pytest.raises(UploadError, match="cannot be read as a zip"):
            read(data[:-4], SMALL.model_copy(update={"archive_bytes": 10 << 20}))


def test_too_many_files_and_too_many_bytes_are_refused() -> None:
    with pytest.raises(UploadTooLargeError, match="at most 20 are taken"):
        read(zipped({f"cat/{index}.png": b"x" for index in range(21)}))
    with pytest.raises(UploadTooLargeError, match="the archive has"):
        read(bytes(100_001))


def test_what_is_no_zip_is_told() -> None:
    whole = zipped({"cat/1.png": b"x" * 100})
    for data in (b"", b"hello", whole[:-30], whole[30:60]):
        with pytest.raises(UploadError, match="cannot be read as a zip"):
            read(data)


def mutated(data: bytes, seed: int) -> bytes:
    random = np.random.default_rng(seed)
    changed = bytearray(data)
    for _ in range(random.integers(1, 8)):
        changed[random.integers(len(changed))] = random.integers(256)
    return bytes(
        changed[: random.integers(len(changed) // 2, len(changed) + 1)] if seed % 4 == 0 else changed
    )


@pytest.mark.parametrize("make", [zipped, lambda files: zipped(files, zipfile.ZIP_STORED)])
def test_no_damage_raises_anything_else(make: Callable[[dict[str, bytes]], bytes]) -> None:
    whole = make({"cat/1.png": b"one" * 20, "dog/2.png": b"two" * 20, "dog/ü.png": b"three"})
    read_through = 0
    for seed in range(1500):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read(mutated(whole, seed))
                read_through += 1
            except RayclsError:
                continue
    assert 0 < read_through < 1500
