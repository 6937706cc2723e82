"""The dataset version: the form in which training, evaluation and tuning read images.

    $RAYCLS_HOME/datasets/pets/2/   dataset.json   manifest.parquet   {train,val,gate,test}/{images,labels}.npy

    dataset = open_dataset("pets")    # raycls/data/versions.py
    dataset.images("train")[0]        # uint8 32×32×3, memory-mapped: many processes share one copy

A large version has shards of encoded images in place of `images.npy` (raycls/data/shards.py). They may stay on the
storage path. A version never changes. This module only reads; raycls/data/writer.py makes versions. It knows arrays and
directories. It does not know where images come from.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from raycls import home
from raycls.data.files import join
from raycls.data.transforms import Resize
from raycls.errors import DataError

if TYPE_CHECKING:
    from raycls.data.encoded import EncodedImages

SPLITS = ("train", "val", "gate", "test")
INFO, ROWS, LEFT_OUT = "dataset.json", "manifest.parquet", "left_out.parquet"
FORMER_INFO = "manifest.json"  # of a dataset that was made before there were versions
Store = Literal["packed", "encoded"]  # pixels in one array, or files of images in shards
STORES: tuple[Store, ...] = get_args(Store)
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")  # of a dataset
FILE = re.compile(r"(train|val|gate|test)/(images\.npy|labels\.npy|shard-\d{5}\.parquet)")


class PixelStore(Protocol):
    """The images of a split, uint8 N×S×S×3: an array, or what reads and decodes the rows that it is asked for."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


class DatasetInfo(BaseModel):
    """The description of a dataset version, in dataset.json.

    fingerprint is 64 hex digits that change with any byte of any array or shard, with the classes, the image size and
    the resize mode. A description may come from a bucket, so it can name no file but those of a version.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: int = 1
    classes: tuple[str, ...] = Field(description="in the order of the labels; later versions add at the end")
    image_size: int = Field(description="width and height, pixels")
    resize: Resize = Field("crop", description="how an image becomes a square")
    counts: dict[str, int] = Field(description="images of each split")
    class_counts: dict[str, tuple[int, ...]] = Field(description="for each split, the images of each class")
    mean: tuple[float, float, float] = Field(description="per channel of train, in units of the 0..1 range")
    std: tuple[float, float, float] = Field(description="per channel of train, in units of the 0..1 range")
    mirrorable: bool = Field(description="an image keeps its class when it is mirrored left to right")
    source: str
    licence: str
    options: dict[str, str] = Field(default={}, description="what the next version takes over")
    left_out: int = Field(0, description="images of the source that are not in this version")
    ignored: int = Field(0, description="files of the source that are no images, by their names")
    store: Store = Field("packed", description="packed: images.npy; encoded: shards of JPEG and WebP files")
    shards: dict[str, tuple[int, int]] = Field(
        {}, description="of each encoded split, the images of a block and of a shard"
    )
    sha256: dict[str, str] = Field(description="of each array file and shard")
    tables: dict[str, str] = Field({}, description="SHA-256 of each table; not part of the fingerprint")
    fingerprint: str
    former_fingerprints: tuple[str, ...] = Field((), description="of before an image was forgotten")

    @model_validator(mode="after")
    def _is_of_a_version(self) -> DatasetInfo:
        if not NAME.fullmatch(self.name) or self.version < 1:
            raise ValueError(f"{self.name!r}, version {self.version}, is no dataset version")
        for file in self.sha256:
            if not FILE.fullmatch(file) or file.partition("/")[0] not in self.counts:
                raise ValueError(f"{file!r} is no file of its splits")
        for what, found, known in (
            ("split", self.counts, SPLITS),
            ("table", self.tables, (ROWS, LEFT_OUT)),
            ("encoded split", self.shards, self.counts),
        ):
            if others := sorted(set(found) - set(known)):
                raise ValueError(f"{others[0]!r} is no {what}")
        if any(block < 1 or shard < 1 or shard % block for block, shard in self.shards.values()):
            raise ValueError("a shard does not have whole blocks")
        if set(self.shards) != (set(self.counts) if self.store == "encoded" else set()):
            raise ValueError(f"its splits are not all {self.store}")
        return self

    @property
    def reference(self) -> str:
        """NAME@VERSION, which opens exactly this version."""
        return f"{self.name}@{self.version}"


@dataclass(frozen=True)
class PackedDataset:
    """A dataset version on disk. The object is small and picklable: it maps an array into memory only when asked to.

    storage: the storage path that has the shards which this machine lacks, or None. It goes where the object goes.
    """

    path: Path
    info: DatasetInfo
    storage: str | None = field(default=None, compare=False, repr=False)  # it may hold a secret

    @property
    def gate(self) -> str:
        """The split on which promotion compares. A dataset from before there was a split `gate` has only `val`."""
        return "gate" if self.info.counts.get("gate") else "val"

    def images(self, split: str) -> PixelStore:
        """Return the images of a split, uint8 N×S×S×3: a read-only memory map, or what decodes them when asked."""
        return self.encoded_images(split) if self.info.store == "encoded" else self.array(split)

    def array(self, split: str) -> np.ndarray:
        """Return the images of a split of a packed version: uint8 N×S×S×3, a read-only memory map."""
        file = self.path / split / "images.npy"
        try:
            return np.load(file, mmap_mode="r")
        except ValueError:  # an empty array cannot be mapped
            return np.load(file)

    def encoded_images(self, split: str) -> EncodedImages:
        """Return the images of a split of an encoded version."""
        from raycls.data import sharing
        from raycls.data.encoded import EncodedImages
        from raycls.data.shards import Shards, ShardShape

        info = self.info
        away = pushed(self.storage, info, split) if self.storage else None
        shape = ShardShape(*info.shards[split])
        labels = np.load(self.path / split / "labels.npy", mmap_mode="r" if info.counts[split] else None)
        shards = Shards(
            self.path / split, shape, labels, info.reference, away, partial(sharing.compare, self)
        )
        return EncodedImages(shards, info.image_size, info.reference)

    def labels(self, split: str) -> np.ndarray:
        """Return the labels of a split: int64 N, indices into `info.classes`."""
        return np.load(self.path / split / "labels.npy")

    def absent(self) -> list[str]:
        """Return the shards that are not on this machine, relative to the version's directory."""
        return [file for file in self.info.sha256 if is_shard(file) and not (self.path / file).exists()]

    def verify(self, *, shards: bool = True) -> None:
        """Read every byte and raise DataError, which names the first file that has changed since it was written.

        shards: also those of an encoded version, all of which must be on this machine.
        """
        for file, digest in {**self.info.sha256, **self.info.tables}.items():
            if is_shard(file) and not shards:
                continue
            try:
                is_whole = sha256_file(self.path / file) == digest
            except OSError as error:
                raise damaged(self.info.reference, f"{file}: {error.strerror}") from error
            if not is_whole:
                raise damaged(self.info.reference, f"{file} does not have the SHA-256 of {INFO}")

    def check(self, *, shards: bool = True) -> None:
        """Compare the description with its fingerprint and with the dtype and shape of every array. Read no pixels.

        shards: those of an encoded version are to be here, too, but for what may be on the storage path alone. They
        are not opened. Raises DataError that names the missing, truncated or mismatched file.
        """
        info = self.info
        if info.fingerprint not in (fingerprint(info), _former_fingerprint(info)):
            raise damaged(info.reference, f"the fingerprint in {INFO} does not match its hashes")
        if shards and not self.storage and (missing := self.absent()):
            from raycls.data.shards import absent

            raise DataError(
                f"dataset {info.reference}: {missing[0]} is not on this machine: {absent(info.reference)}"
            )
        for array in info.sha256:
            if is_shard(array):
                continue
            split, kind = array.split("/")
            count, side = info.counts[split], info.image_size
            images = kind == "images.npy"
            expected = (np.uint8, (count, side, side, 3)) if images else (np.int64, (count,))
            try:
                found = np.load(self.path / array, mmap_mode="r" if count else None)
            except (OSError, ValueError) as error:
                raise damaged(info.reference, f"{array}: {error}") from error
            if (found.dtype, found.shape) != expected:
                raise damaged(
                    info.reference,
                    f"{array} is {found.dtype} {found.shape}, which does not match {INFO}",
                )
            if not images and count and not 0 <= found.min() <= found.max() < len(info.classes):
                raise damaged(info.reference, f"{array} has labels of no class")


def read(path: Path, reference: str, storage: str | None = None) -> PackedDataset:
    """Return the dataset version in a directory, with all of it checked except the pixels. Raises DataError.

    storage: where shards are that the directory lacks; default: the storage path of this process, if it has one.
    """
    try:
        if (path / INFO).exists() or not (path / FORMER_INFO).exists():
            info = DatasetInfo.model_validate_json((path / INFO).read_bytes())
        else:
            info = _former_info(json.loads((path / FORMER_INFO).read_bytes()))
    except (OSError, ValueError, KeyError, AttributeError) as error:  # ValidationError is a ValueError
        raise damaged(reference, f"its description: {fault(error)}") from error
    dataset = PackedDataset(path, info, storage or home.shared_storage())
    dataset.check()
    return dataset


def arrays_of(splits: tuple[str, ...]) -> tuple[str, ...]:
    """Return the array files of the splits, relative to the version's directory."""
    return tuple(f"{split}/{array}.npy" for split in splits for array in ("images", "labels"))


def is_shard(file: str) -> bool:
    """Return whether a file of a version holds encoded images. It may be on the storage path alone."""
    return file.rpartition("/")[2].startswith("shard-")


def pushed(storage: str, info: DatasetInfo, split: str) -> str:
    """Return the path or URI of a split's folder where `raycls data push` copies it."""
    return join(storage, f"datasets/{info.name}/{info.version}/{split}")


def fingerprint(info: DatasetInfo) -> str:
    """Return 64 hex digits: a digest of the arrays' hashes, the classes, the image size and the resize mode."""
    parts = [sorted(info.sha256.items()), info.classes, info.image_size, info.resize]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hex digits, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fault(error: Exception) -> str:
    """Return in one line what is wrong with a description."""
    if not isinstance(error, ValidationError):
        return str(error).splitlines()[0]
    first = error.errors()[0]
    return ".".join(str(part) for part in (*first["loc"], "")) + f" {first['msg']}".lower()


def damaged(reference: str, what: str) -> DataError:
    return DataError(
        f"dataset {reference} is damaged: {what}; remove it with `raycls data remove {reference} --force` and prepare "
        "or pull it again"
    )


def _former_info(content: dict) -> DatasetInfo:
    """Return the description of a dataset that was made before there were versions: it is version 1."""
    skipped = content.pop("skipped", ())
    return DatasetInfo.model_validate({**content, "left_out": len(skipped)})


def _former_fingerprint(info: DatasetInfo) -> str:
    parts = [sorted(info.sha256.items()), info.classes, info.image_size]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
