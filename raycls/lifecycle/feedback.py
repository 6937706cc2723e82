"""What was right, as clients say it of answers that they got: joined with what was predicted, once for each answer.

    feedback = Feedback()
    feedback.record(Claims("r-17", "pets", "7", "cat", 0.93, time.time()), "dog", sender="ann")
    feedback.review(["r-17"], by="eve", state="accepted")
    feedback.accuracy("pets")["7"].share             # of the accepted ones

The caller has checked that the server issued the request id, and that the claims are those of the answer. Only what a
person has accepted counts, unless a caller asks for all. This module knows no pictures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal

from raycls.data.place import Place, open_place, place_at, telling, where_is
from raycls.errors import UnknownRecordError, UploadError
from raycls.lifecycle.intake import check_sender
from raycls.lifecycle.limits import USUAL, UploadLimits
from raycls.lifecycle.log import Event, Log

FeedbackState = Literal["waiting", "accepted", "rejected"]


@dataclass(frozen=True)
class Claims:
    """What a server said in one answer. confidence: 0 to 1. time: seconds since 1970. sha256: of the picture, or "".

    request_id: of the answer; where a request had several pictures, of the request and the picture's place in it.
    """

    request_id: str
    model: str
    version: str
    predicted: str
    confidence: float
    time: float
    sha256: str = ""


@dataclass(frozen=True)
class Answered:
    """A prediction, the label that a sender says is right, and whether a person has accepted that."""

    claims: Claims
    label: str
    sender: str
    time: float
    state: FeedbackState = "waiting"
    reviewer: str = ""

    @property
    def right(self) -> bool:
        return self.label == self.claims.predicted

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "right": self.right}


@dataclass(frozen=True)
class Accuracy:
    """How many answers of a version are judged, at least one, and how many of those were right."""

    judged: int
    right: int

    @property
    def share(self) -> float | None:
        """The accuracy, 0 to 1."""
        return self.right / self.judged

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "share": self.share}


class Feedback:
    """The feedback in a place; the default is `feedback` on the storage path. Threads and processes may share it.

    Its methods raise DataError if the place cannot be read or written.
    """

    def __init__(self, place: Place | None = None):
        self._log = Log(place or open_place("feedback"))
        self._sum: tuple[tuple[Event, ...], dict[str, Answered]] = ((), {})

    @staticmethod
    def of_process() -> Feedback:
        """Return the feedback that this process shares: it reads only what is new in the log since its last call."""
        return _feedback_at(where_is("feedback"))

    @telling()
    def record(
        self,
        claims: Claims,
        label: str,
        *,
        sender: str,
        classes: tuple[str, ...],
        limits: UploadLimits = USUAL,
    ) -> Answered:
        """Keep what was right for an answer, and return it. classes: those of the model.

        Raises UploadError if the label is no class, if there is feedback for the request id already, or if too much of
        it waits for a review.
        """
        check_sender(sender)
        if label not in classes:
            shown = label[: limits.label_characters]
            raise UploadError(f"{shown!r} is no class of {claims.model}: choose one of its classes")
        known = self._all()
        if claims.request_id in known:
            raise _repeated(claims)
        if sum(each.state == "waiting" for each in known.values()) >= limits.waiting_feedback:
            raise UploadError("too much feedback waits for a review: an admin must accept or reject some")
        self._log.append([{"kind": "said", "label": label, "by": sender, "claims": asdict(claims)}])
        found = self._all()[claims.request_id]
        if (found.sender, found.label) != (sender, label):  # another process was first
            raise _repeated(claims)
        return found

    @telling()
    def review(self, request_ids: Iterable[str], *, by: str, state: FeedbackState) -> list[Answered]:
        """Accept or reject feedback, and return it. A decision that changes nothing writes nothing.

        Raises UnknownRecordError if there is no feedback for one of the ids; then none is decided.
        """
        check_sender(by)
        ids, found = list(dict.fromkeys(request_ids)), self._all()
        if missing := [each for each in ids if each not in found]:
            raise UnknownRecordError(
                f"there is no feedback for {missing[0][:80]!r}: look at the list of feedback"
            )
        self._log.append(
            {"kind": "reviewed", "request_id": each, "by": by, "state": state}
            for each in ids
            if found[each].state != state
        )
        after = self._all()
        return [after[each] for each in ids]

    @telling()
    def of(
        self, model: str, *, version: str | None = None, state: FeedbackState | None = None
    ) -> list[Answered]:
        """Return the feedback for a model, the oldest first. None: for every version, and in every state."""
        return [
            each
            for each in self._all().values()
            if each.claims.model == model
            and version in (None, each.claims.version)
            and state in (None, each.state)
        ]

    def accuracy(self, model: str) -> dict[str, Accuracy]:
        """Return the accuracy of each version of a model by the accepted feedback, by its number."""
        accepted = self.of(model, state="accepted")
        return {
            version: Accuracy(len(judged), sum(each.right for each in judged))
            for version in sorted({each.claims.version for each in accepted}, key=int)
            if (judged := [each for each in accepted if each.claims.version == version])
        }

    def _all(self) -> dict[str, Answered]:
        events = self._log.read()
        if events is not self._sum[0]:
            self._sum = (events, _joined(events))
        return self._sum[1]


@lru_cache(maxsize=8)
def _feedback_at(where: str) -> Feedback:
    return Feedback(place_at(where))


def _joined(events: Iterable[Event]) -> dict[str, Answered]:
    """Return the feedback by request id. Of two for one id the first counts."""
    found: dict[str, Answered] = {}
    for event in events:
        if event["kind"] == "said":
            claims = Claims(**event["claims"])
            found.setdefault(claims.request_id, Answered(claims, event["label"], event["by"], event["time"]))
        elif event["request_id"] in found:
            former = found[event["request_id"]]
            found[event["request_id"]] = replace(former, state=event["state"], reviewer=event["by"])
    return found


def _repeated(claims: Claims) -> UploadError:
    return UploadError(f"there is feedback for {claims.request_id[:80]!r} already: an answer takes it once")
