"""The control plane makes windows of what replicas summed up, examines them, and keeps what it found."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from raycls.control_plane import drift_watch, served
from raycls.control_plane.drift_watch import DriftWatch
from raycls.drift.reference import Reference, make
from raycls.drift.window import Window
from raycls.lifecycle import drift_windows
from raycls.lifecycle.drift_windows import DriftWindow
from tests.unit.drift.pictures import batch

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


class Replicas:
    """What replicas answer the control plane, and what it told them."""

    def __init__(self) -> None:
        self.reference: Reference = make(*batch(1000, 0))
        self.answers: list[dict[str, Any]] = []
        self.told: list[dict[str, Any]] = []

    def saw(self, count: int, seed: int, *, version: str = "pets/6", dark: bool = False) -> None:
        window = Window(self.reference)
        probabilities, embeddings, images, sizes = batch(count, seed)
        window.update(probabilities, embeddings, images // 4 if dark else images, sizes)
        self.answers.append({"version": version, "chunks": [window.take().as_json()]})

    async def drift_sums(self, found: dict[str, Any]) -> list[dict[str, Any]]:
        self.told.append(found)
        answers, self.answers = self.answers, []
        return answers


@pytest.fixture
def replicas(home: Path, monkeypatch: pytest.MonkeyPatch) -> Replicas:
    replicas = Replicas()
    monkeypatch.setattr(served, "drift_sums", replicas.drift_sums)
    monkeypatch.setattr(drift_watch, "_reference", lambda version: replicas.reference)
    return replicas


def _turn(watch: DriftWatch, now: datetime = NOW) -> None:
    asyncio.run(watch.step(now))


def test_two_replicas_fill_one_window_and_dark_pictures_alarm(replicas: Replicas) -> None:
    watch = DriftWatch(500)
    for seed in (1, 2):
        replicas.saw(200, seed)
    _turn(watch)
    assert drift_windows.windows() == ()
    for seed in (3, 4):
        replicas.saw(100, seed)
    _turn(watch)
    (ordinary,) = drift_windows.windows()
    assert (ordinary.version, ordinary.images, ordinary.alarms) == ("pets/6", 500, ())
    replicas.saw(100, 5, dark=True)  # 100 ordinary ones wait
    replicas.saw(300, 6, dark=True)
    _turn(watch)
    changed, former = drift_windows.windows()
    assert former == ordinary
    assert {"brightness", "contrast", "sharpness"} <= set(changed.alarms)
    _turn(watch)
    assert [each["images"] for told in replicas.told for each in told.values()] == [500, 500]
    assert replicas.told[-1] == {"pets/6": changed.as_json()}


def test_a_window_gets_no_more_images_than_it_may(replicas: Replicas) -> None:
    watch = DriftWatch(500)
    for seed in range(5):
        replicas.saw(200, seed)
    _turn(watch)
    assert [window.images for window in drift_windows.windows()] == [400, 400]


def test_an_hour_ends_a_window_that_has_a_hundred_images(replicas: Replicas) -> None:
    watch = DriftWatch(2000)
    replicas.saw(99, 1)
    _turn(watch)
    _turn(watch, NOW + timedelta(hours=1))
    assert drift_windows.windows() == ()
    replicas.saw(1, 2)
    _turn(watch, NOW + timedelta(hours=2))
    (window,) = drift_windows.windows()
    assert (window.images, window.began) == (100, NOW.isoformat())
    replicas.saw(150, 3)
    _turn(watch, NOW + timedelta(hours=2.5))
    assert len(drift_windows.windows()) == 1


def test_another_version_begins_a_window_of_its_own(replicas: Replicas) -> None:
    watch = DriftWatch(300)
    replicas.saw(200, 1)
    _turn(watch)
    replicas.saw(200, 2, version="pets/7")
    _turn(watch)
    replicas.saw(100, 3, version="pets/7")
    replicas.saw(200, 4)  # what was begun before pets/7 alone answered is forgotten
    _turn(watch)
    assert [(window.version, window.images) for window in drift_windows.windows()] == [("pets/7", 300)]


def test_another_control_plane_tells_replicas_the_last_window(replicas: Replicas) -> None:
    replicas.saw(200, 1)
    _turn(DriftWatch(200))
    _turn(DriftWatch(200))
    (window,) = drift_windows.windows()
    assert replicas.told == [{}, {"pets/6": window.as_json()}]


def test_a_version_without_a_reference_has_no_windows(
    replicas: Replicas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drift_watch, "_reference", lambda version: None)
    replicas.saw(200, 1)
    _turn(DriftWatch(100))
    assert drift_windows.windows() == ()


def test_the_last_two_hundred_windows_are_kept(home: Path) -> None:
    def window(images: int) -> DriftWindow:
        return DriftWindow(version="pets/6", began="", ended="", images=images, findings=())

    drift_windows.keep([window(i) for i in range(150)])
    drift_windows.keep([window(i) for i in range(150, 250)])
    assert [each.images for each in drift_windows.windows()] == list(range(249, 49, -1))


def test_a_model_that_is_silent_for_once_keeps_its_window(replicas: Replicas) -> None:
    watch = DriftWatch(500)
    replicas.saw(200, 1)
    replicas.saw(200, 2, version="cats/1")
    _turn(watch)
    replicas.saw(100, 3, version="cats/1")  # those of pets do not answer in time
    _turn(watch)
    replicas.saw(300, 4)
    _turn(watch)
    assert [(window.version, window.images) for window in drift_windows.windows()] == [("pets/6", 500)]
    replicas.saw(200, 5, version="cats/1")
    _turn(watch)
    assert [window.version for window in drift_windows.last()] == ["cats/1", "pets/6"]


def test_a_model_that_is_silent_for_long_is_served_no_more(replicas: Replicas) -> None:
    watch = DriftWatch(500)
    replicas.saw(200, 1)
    _turn(watch)
    replicas.saw(200, 2, version="cats/1")
    _turn(watch, NOW + drift_watch.SILENT)
    replicas.saw(300, 3)
    _turn(watch, NOW + drift_watch.SILENT)
    assert drift_windows.windows() == ()
