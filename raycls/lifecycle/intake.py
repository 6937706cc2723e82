"""Takes pictures into the review queue: each is checked as `raycls data prepare` checks it, and stored once.

    answer = add(uploads, "pets", [("1.jpg", data)], label="cat", sender="ann")
    answer.taken, answer.known, answer.refused

Everything that is given is taken for hostile. The pictures of a call are stored first and their records last, all at
once: a call that is killed has added nothing, and the same call again adds everything.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, BinaryIO, NamedTuple

from raycls.data.decode import decode_with_facts, pixels_of
from raycls.data.packed import NAME
from raycls.data.place import telling
from raycls.data.versions import open_dataset
from raycls.errors import ImageError, UploadError, UploadTooLargeError, UsageError
from raycls.lifecycle.archives import Refused, named, opened_zip
from raycls.lifecycle.labels import class_of, classes_of, resolve
from raycls.lifecycle.limits import USUAL, UploadLimits
from raycls.lifecycle.records import Source, expiry, replaces
from raycls.lifecycle.uploads import Uploads

SENDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,99}")
NAME_CHARACTERS = 100  # longest name of a dataset
SIDE = 224  # pixels: a larger JPEG is decoded at a smaller scale, as a preparation does


class Taken(NamedTuple):
    """A new picture. new_class: the dataset has no class of this label."""

    file: str
    sha256: str
    label: str
    new_class: bool


class Known(NamedTuple):
    """A picture that was sent before. It keeps the label and the state that it has."""

    file: str
    sha256: str
    label: str
    state: str


@dataclass
class Answer:
    """What became of each picture of a call. ignored: the files in an archive that programs leave behind."""

    taken: list[Taken] = field(default_factory=list)
    known: list[Known] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    ignored: int = 0

    def as_json(self) -> dict[str, Any]:
        parts = {
            part: [each._asdict() for each in getattr(self, part)] for part in ("taken", "known", "refused")
        }
        return {**parts, "ignored": self.ignored}


def add(
    uploads: Uploads,
    name: str,
    pictures: Iterable[tuple[str, bytes]],
    *,
    label: str,
    sender: str,
    source: Source = "upload",
    classes: tuple[str, ...] | None = None,
    prediction: Mapping[str, Any] | None = None,
    limits: UploadLimits = USUAL,
) -> Answer:
    """Take pictures of one class, given as (file name, bytes), into the review queue of a dataset.

    classes: those of the dataset; None: of its newest version, which is opened. prediction: what a captured picture was
    taken for. A file name is used in the answer only. Raises UsageError if the name or the sender cannot be one,
    UploadError if the label cannot name a class, UploadTooLargeError for too many pictures, UnknownDatasetError, and
    DataError if the store cannot be read or written.
    """
    intake = _Intake(uploads, name, sender, source, classes, limits)
    with telling():
        class_of(label, intake.known(), limits)  # raises
    return intake.take([label], ((file, label, data) for file, data in pictures), prediction)


def add_zip(
    uploads: Uploads,
    name: str,
    file: BinaryIO,
    *,
    sender: str,
    classes: tuple[str, ...] | None = None,
    limits: UploadLimits = USUAL,
    told: Callable[[int, int], None] = lambda checked, of: None,
) -> Answer:
    """Take the pictures of a zip of class folders into the review queue of a dataset.

    file: open for reading at any place. told: called with the pictures checked so far, and all. Nothing is taken from
    an archive that exceeds a limit. Raises the errors of `add` and of `raycls.lifecycle.archives.opened_zip`.
    """
    intake = _Intake(uploads, name, sender, "upload", classes, limits)
    with opened_zip(file, limits) as archive:
        entries = archive.entries

        def pictures() -> Iterator[tuple[str, str, bytes]]:
            for checked, entry in enumerate(entries):
                told(checked, len(entries))
                yield entry.name, entry.label, archive.read(entry)

        answer = intake.take({entry.label for entry in entries}, pictures())
        answer.refused[:0] = archive.refused
        answer.ignored = archive.ignored
    return answer


def check_sender(sender: str) -> str:
    """Return the name of a sender or reviewer. Raises UsageError if it is none."""
    if not SENDER.fullmatch(sender):
        raise UsageError(
            f"{sender!r} cannot name a sender: use letters, digits and '_.@+-', at most 100 of them"
        )
    return sender


def check_dataset(name: str) -> str:
    """Return the name of a dataset, which may come from a stranger. Raises UsageError if it cannot be one."""
    if not NAME.fullmatch(name) or len(name) > NAME_CHARACTERS:
        raise UsageError(f"{name!r} cannot name a dataset: `raycls data list` shows those that exist")
    return name


class _Intake:
    """The checks that the pictures of one call share."""

    def __init__(
        self,
        uploads: Uploads,
        name: str,
        sender: str,
        source: Source,
        classes: tuple[str, ...] | None,
        limits: UploadLimits,
    ):
        self._uploads, self._name, self._sender = uploads, check_dataset(name), check_sender(sender)
        self._source, self._limits, self._pixels = source, limits, limits.pixels_of_all
        self._events: dict[str, dict[str, Any]] = {}
        self._classes = open_dataset(name).info.classes if classes is None else classes

    def known(self) -> tuple[str, ...]:
        return classes_of(self._uploads, self._name, self._classes)

    @telling()
    def take(
        self,
        labels: Iterable[str],
        pictures: Iterable[tuple[str, str, bytes]],
        prediction: Mapping[str, Any] | None = None,
    ) -> Answer:
        """Take pictures, given as (file name, label, bytes), of some labels."""
        resolved = resolve(labels, self.known(), self._limits)
        self._records = self._uploads.records()
        self._room = self._limits.quota_bytes - self._records.stored_bytes()
        extra = {"prediction": dict(prediction)} if prediction else {}
        answer = Answer()
        try:
            for count, (file, label, data) in enumerate(pictures):
                if count == self._limits.files:
                    raise UploadTooLargeError(
                        f"more than {self._limits.files:,} pictures: send them in parts"
                    )
                if reason := resolved.refused.get(label):
                    answer.refused.append(Refused(named(file), reason))
                else:
                    self._take_one(named(file), resolved.class_of[label], data, answer)
            self._uploads.write({**event, **extra} for event in self._events.values())
        except BaseException:  # also where the caller is interrupted
            for sha256 in self._events:
                self._uploads.drop(sha256)
            raise
        self._settle(answer)
        return answer

    def _take_one(self, file: str, label: str, data: bytes, answer: Answer) -> None:
        sha256 = hashlib.sha256(data).hexdigest()
        record = self._records.of.get((self._name, sha256))
        if sha256 in self._events:
            answer.known.append(Known(file, sha256, self._events[sha256]["label"], "waiting"))
            return
        if record is not None and record.state != "purged" and not replaces(self._source, record):
            answer.known.append(Known(file, sha256, record.label, record.state))
            return
        try:
            width, height = self._checked(sha256, data)
        except (UploadError, ImageError) as error:
            answer.refused.append(Refused(file, named(str(error))))
            return
        event = {"kind": "added", "name": self._name, "sha256": sha256, "label": label, "by": self._sender}
        facts = {"source": self._source, "size": len(data), "width": width, "height": height}
        self._events[sha256] = {**event, **facts}
        self._uploads.keep(sha256, data)
        self._room -= len(data)
        answer.taken.append(Taken(file, sha256, label, label not in self._classes))

    def _checked(self, sha256: str, data: bytes) -> tuple[int, int]:
        """Return width and height of a picture in pixels. Raises UploadError or ImageError if it is refused."""
        limits = self._limits
        if len(data) > limits.picture_bytes:
            raise UploadError(f"larger than {limits.picture_bytes:,} bytes: make it smaller")
        if sha256 in self._records.purged:
            raise UploadError("it was purged for good")
        if len(data) > self._room:
            raise UploadError("the store of uploads is full: its admin can purge some")
        # Those of a damaged picture cost time too.
        self._pixels -= pixels_of(data, max_pixels=limits.pixels, formats=limits.formats)
        if self._pixels < 0:
            raise UploadError("the pictures of this call have too many pixels together: send it in another")
        decoded = decode_with_facts(data, side=SIDE, max_pixels=limits.pixels, formats=limits.formats)
        return decoded.width, decoded.height

    def _settle(self, answer: Answer) -> None:
        """Correct the answer by what other processes did meanwhile: add, purge or delete the same pictures."""
        records = self._uploads.records()
        taken, answer.taken = answer.taken, []
        for each in taken:
            record = records.of.get((self._name, each.sha256))
            if record is None or each.sha256 in records.purged:
                self._uploads.drop(each.sha256)
                answer.refused.append(Refused(each.file, "it was purged for good"))
            elif not self._uploads.has(each.sha256):
                self._uploads.write([expiry(record)])
                answer.refused.append(
                    Refused(each.file, "its former copy expired at this moment: send it again")
                )
            elif (record.sender, record.label) != (self._sender, each.label):
                answer.known.append(Known(each.file, each.sha256, record.label, record.state))
            else:
                answer.taken.append(each)
