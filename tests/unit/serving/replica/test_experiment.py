"""Which of two versions answers, and what is counted of both."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.datastructures import Headers

from raycls.engines.predictor import Prediction, predictions_of
from raycls.errors import ImageError, NotAnImageError
from raycls.serving.replica.challenger_link import ChallengerError
from raycls.serving.replica.experiment import BROKEN, LiveExperiment
from raycls.serving.state import Experiment

CLASSES = ("cat", "dog")


class Answering:
    """The champion's inference, or the way to the challenger: says `cat`, or `dog`, or raises."""

    def __init__(self, says: str, error: Exception | None = None):
        self.version, self.classes, self.error, self.asked = "7", CLASSES, error, 0
        self.predictor = SimpleNamespace(card=SimpleNamespace(classes=CLASSES))
        self._row = [0.9, 0.1] if says == "cat" else [0.2, 0.8]

    async def run(self, images: Sequence[bytes], still_wanted: Any = None) -> list[Any]:
        self.asked += 1
        if self.error:
            raise self.error
        unreadable = [data == b"?" for data in images]
        probabilities = np.array([self._row] * len(images), np.float32)
        rows = predictions_of(probabilities, probabilities, CLASSES)
        return [
            NotAnImageError("no image") if bad else row for bad, row in zip(unreadable, rows, strict=True)
        ]

    def close(self) -> None:
        pass


class Link(Answering):
    """The way to the challenger."""

    async def run(self, images: Sequence[bytes], still_wanted: Any = None) -> Any:
        return await super().run(images), 0.002


def _live(mode: str, share: float, challenger: Link, identifier: str = "a1b2c3d4") -> LiveExperiment:
    experiment = Experiment(
        id=identifier,
        champion="pets/6",
        challenger="pets/7",
        mode=mode,
        share=share,
        started="",
        by="ada",  # type: ignore[arg-type]
    )
    return LiveExperiment(experiment, Answering("cat"), challenger, "6")  # type: ignore[arg-type]


def _send(
    live: LiveExperiment, clients: Sequence[str], images: Sequence[bytes] = (b"x",)
) -> list[tuple[str, str]]:
    """Return the class and the version that each client is answered."""

    async def send() -> list[tuple[str, str]]:
        answers = []
        for client in clients:
            headers = Headers({"X-Client-Id": client} if client else {})
            outcomes, version = await live.run(images, headers, lambda: True)
            assert isinstance(outcomes[0], Prediction | ImageError)
            answers.append((getattr(outcomes[0], "class_name", "error"), version))
        while live._shadows:
            await asyncio.gather(*live._shadows)
        return answers

    return asyncio.run(send())


def test_a_split_gives_each_version_its_share_and_each_client_one_version() -> None:
    clients = [f"client-{i}" for i in range(4000)]
    live = _live("split", 0.25, Link("dog"))
    first, again = _send(live, clients), _send(live, clients)
    assert first == again
    share = sum(version == "7" for _, version in first) / len(clients)
    assert share == pytest.approx(0.25, abs=3 * (0.25 * 0.75 / 4000) ** 0.5)
    assert set(first) == {("cat", "6"), ("dog", "7")}
    other = _send(_live("split", 0.25, Link("dog"), "ffffffff"), clients)
    assert other != first  # another experiment asks other clients
    counts = live.counts.as_json()
    assert counts["champion"]["requests"] + counts["challenger"]["requests"] == 8000
    assert sum(counts["challenger"]["seconds"]) == counts["challenger"]["requests"]
    assert counts["challenger"]["predicted"] == [0, counts["challenger"]["requests"]]


def test_without_a_client_the_picture_decides() -> None:
    live = _live("split", 0.5, Link("dog"))
    versions = {}
    for i in range(200):
        picture = b"picture-%d" % i
        (first,), (again,) = _send(live, [""], [picture]), _send(live, [""], [picture])
        assert first == again
        versions[first[1]] = versions.get(first[1], 0) + 1
    assert min(versions["6"], versions["7"]) > 60


def test_a_shadow_is_never_answered_and_disagreements_are_kept() -> None:
    live = _live("shadow", 1.0, Link("dog"))
    assert set(_send(live, ["a"] * 50, [b"x", b"y"])) == {("cat", "6")}
    assert (live.counts.agreed, live.counts.disagreed) == (0, 100)
    assert live.counts.challenger.requests == 50
    assert len(live.disagreements) == 32
    assert live.disagreements[-1] == (b"y", "cat", "dog")
    same = _live("shadow", 1.0, Link("cat"))
    _send(same, ["a"] * 10)
    assert (same.counts.agreed, same.counts.disagreed, len(same.disagreements)) == (10, 0, 0)


@pytest.mark.parametrize("mode", ["shadow", "split"])
@pytest.mark.parametrize("kind", ["late", "raised", "not_finite"])
def test_the_champion_answers_for_a_challenger_that_fails_which_is_soon_asked_no_more(
    mode: str, kind: str
) -> None:
    challenger = Link("dog", ChallengerError(kind))
    live = _live(mode, 1.0, challenger)
    assert set(_send(live, ["a"] * 20)) == {("cat", "6")}
    assert live.counts.broken
    assert challenger.asked == live.counts.challenger.failures[kind]
    assert BROKEN <= challenger.asked <= (BROKEN if mode == "split" else 20)
    assert live.counts.champion.requests == 20
    assert live.counts.replaced == (BROKEN if mode == "split" else 0)
    asked = challenger.asked
    _send(live, ["a"] * 20)
    assert challenger.asked == asked


def test_what_is_not_the_challengers_fault_does_not_count_against_it() -> None:
    challenger = Link("dog", ChallengerError("behind"))
    live = _live("split", 1.0, challenger)
    assert set(_send(live, ["a"] * 20)) == {("cat", "6")}
    assert not live.counts.broken
    unreadable = _live("split", 1.0, Link("dog", ChallengerError("unreadable")))
    assert _send(unreadable, ["a"] * 20, [b"?"]) == [("error", "6")] * 20
    assert not unreadable.counts.broken
