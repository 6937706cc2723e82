"""Images on their way to a challenger: together, within the deadline, and never in the champion's way."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from raycls.serving.images_socket import Answers, Classify
from raycls.serving.replica import challenger_link
from raycls.serving.replica.challenger_link import Answering, ChallengerError, ChallengerLink

CLASSES = ("cat", "dog")


def _link(call: Classify) -> ChallengerLink:
    return ChallengerLink(call, answering=Answering("7", CLASSES), most_images=8)


async def _answer(images: list[bytes]) -> Answers:
    """`c…` is a cat, `d…` a dog, anything else cannot be read."""
    readable = [i for i, data in enumerate(images) if data[:1] in (b"c", b"d")]
    rows = [[0.9, 0.1] if images[i][:1] == b"c" else [0.2, 0.8] for i in readable]
    return readable, np.array(rows, np.float32).reshape(-1, 2), np.zeros((len(rows), 3), np.float32), 0.001


def _kind(call: Classify, images: list[bytes]) -> str:
    async def run() -> str:
        with pytest.raises(ChallengerError) as caught:
            await _link(call).run(images)
        return caught.value.kind

    return asyncio.run(run())


def test_each_request_gets_its_own_answers_and_many_travel_together() -> None:
    sizes: list[int] = []

    async def call(images: list[bytes]) -> Answers:
        sizes.append(len(images))
        await asyncio.sleep(0.01)
        return await _answer(images)

    async def run() -> None:
        link = _link(call)
        requests = [[b"c%d" % i, b"d%d" % i] if i % 2 else [b"d%d" % i] for i in range(20)]
        for request, (answers, seconds) in zip(
            requests, await asyncio.gather(*map(link.run, requests)), strict=True
        ):
            assert seconds == 0.001
            assert [answer.class_name for answer in answers] == [
                "cat" if data[:1] == b"c" else "dog" for data in request
            ]
            assert [answer.confidence for answer in answers] == pytest.approx(
                [0.9 if data[:1] == b"c" else 0.8 for data in request]
            )

    asyncio.run(run())
    assert sum(sizes) == 30
    assert max(sizes) == 8
    assert len(sizes) < 8


def test_what_goes_wrong_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(challenger_link, "DEADLINE_S", 0.05)

    async def hang(images: list[bytes]) -> Answers:
        await asyncio.sleep(30)
        raise AssertionError

    async def fail(images: list[bytes]) -> Answers:
        raise RuntimeError("no")

    async def no_numbers(images: list[bytes]) -> Answers:
        rows = np.full((len(images), 2), np.nan, np.float32)
        return list(range(len(images))), rows, rows, 0.001

    assert _kind(hang, [b"c"]) == "late"
    assert _kind(fail, [b"c"]) == "raised"
    assert _kind(no_numbers, [b"c"]) == "not_finite"
    assert _kind(_answer, [b"c", b"?"]) == "unreadable"
    assert _kind(_answer, [b"c"] * (challenger_link.MOST_WAITING + 1)) == "behind"


def test_a_hanging_challenger_takes_no_more_than_its_places_and_is_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(challenger_link, "DEADLINE_S", 0.05)
    hangs = True

    async def call(images: list[bytes]) -> Answers:
        if hangs:
            await asyncio.sleep(30)
        return await _answer(images)

    async def run() -> list[str]:
        nonlocal hangs
        link = _link(call)
        results = await asyncio.gather(*(link.run([b"c"]) for _ in range(100)), return_exceptions=True)
        kinds = {result.kind for result in results if isinstance(result, ChallengerError)}
        hangs = False
        await asyncio.sleep(0.1)
        (answer,), _ = await link.run([b"d"])
        assert answer.class_name == "dog"
        return sorted(kinds)

    assert asyncio.run(run()) == ["late"]


def test_the_challengers_own_threshold_rejects_its_answers() -> None:
    async def ask() -> list[bool | None]:
        answering = Answering("7", CLASSES, np.array([0.95, 0.5]))
        predictions, _ = await ChallengerLink(_answer, answering=answering, most_images=8).run(
            [b"cat", b"dog"]
        )
        return [prediction.rejected for prediction in predictions]

    assert asyncio.run(ask()) == [True, False]
