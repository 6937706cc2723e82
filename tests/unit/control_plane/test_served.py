"""Which application of several models is asked, and what is known where one is silent."""

from __future__ import annotations

import asyncio
import time
from types import SimpleNamespace
from typing import Any

import pytest

from raycls.control_plane import served
from raycls.errors import ClusterError
from raycls.serving.settings import ServingConfig

SETTINGS = ServingConfig()


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[Any]]:
    """What the replicas of each application answer: the model at /, and another one."""
    found: dict[str, list[Any]] = {
        served.SERVING: [("digits/1", SETTINGS), ("digits/1", SETTINGS)],
        "raycls-model-pets": [("pets/4", SETTINGS)],
    }

    async def broadcast(application: str, method: str, *arguments: Any) -> list[Any]:
        return found[application]

    monkeypatch.setattr(served, "_broadcast", broadcast)
    monkeypatch.setattr(served, "_applications", lambda: list(found))
    monkeypatch.setattr(served, "_APPLICATIONS", served._Applications())
    return found


def test_each_model_is_found_and_without_a_name_the_one_at_the_root(answers: dict[str, list[Any]]) -> None:
    assert asyncio.run(served.version()) == "digits/1"
    assert asyncio.run(served.version("digits")) == "digits/1"
    assert asyncio.run(served.version("pets")) == "pets/4"
    assert [asyncio.run(served.champion(name)).replicas for name in ("", "digits", "pets")] == [2, 2, 1]


def test_replicas_of_the_version_that_an_update_replaces_do_not_count(answers: dict[str, list[Any]]) -> None:
    answers[served.SERVING] = [("digits/2", SETTINGS), ("digits/1", SETTINGS), ("digits/2", SETTINGS)]
    assert asyncio.run(served.champion()) == ("digits/2", SETTINGS, 2)


def test_a_silent_root_is_not_another_model(answers: dict[str, list[Any]]) -> None:
    """Pictures that were sent without a dataset's name went to that of the other model."""
    answers[served.SERVING] = []
    with pytest.raises(ClusterError, match="no replica answers"):
        asyncio.run(served.version())


def test_a_model_that_is_not_served_and_one_that_is_silent_are_two_things(
    answers: dict[str, list[Any]],
) -> None:
    with pytest.raises(served.NotServedError, match="cats is not served: digits/1, pets/4 is"):
        asyncio.run(served.version("cats"))
    answers["raycls-model-pets"] = []
    with pytest.raises(ClusterError) as caught:
        asyncio.run(served.version("pets"))
    assert not isinstance(caught.value, served.NotServedError)


def test_before_the_first_look_nothing_is_not_served(
    answers: dict[str, list[Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def silent() -> list[str]:
        raise ConnectionError("no controller")

    monkeypatch.setattr(served, "_applications", silent)
    with pytest.raises(ClusterError) as caught:
        asyncio.run(served.version("pets"))
    assert not isinstance(caught.value, served.NotServedError)


def test_a_controller_that_is_silent_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "ANSWER_S", 0.05)
    monkeypatch.setattr(served, "NAMES_S", 0.0)
    known = served._Applications()
    asked: list[float] = []

    async def look() -> None:
        monkeypatch.setattr(served, "_applications", lambda: ["raycls", "raycls-model-pets"])
        assert await known.names() == ["raycls", "raycls-model-pets"]
        monkeypatch.setattr(
            served, "_applications", lambda: (asked.append(0), time.sleep(0.5))[1] or ["raycls"]
        )
        for _ in range(3):
            assert await known.names() == ["raycls", "raycls-model-pets"]
        await asyncio.sleep(0.6)
        assert await known.names() == ["raycls"]

    asyncio.run(look())
    assert known.known
    assert len(asked) == 1, "it is asked once, and not by everybody who waits"


def test_many_may_ask_at_once_and_an_error_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(served, "NAMES_S", 0.0)
    known = served._Applications()

    def slow() -> list[str]:
        time.sleep(0.1)
        raise RuntimeError("an answer that nobody understands")

    async def look() -> None:
        monkeypatch.setattr(served, "_applications", slow)
        assert await asyncio.gather(*(known.names() for _ in range(3))) == [["raycls"]] * 3
        monkeypatch.setattr(served, "_applications", lambda: ["raycls", "more"])
        assert await known.names() == ["raycls", "more"]

    asyncio.run(look())


def test_what_is_being_built_counts_and_what_has_no_model_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def application(*deployments: str) -> Any:
        return SimpleNamespace(deployments=dict.fromkeys(deployments))

    found = {
        "raycls-model-pets": application(),  # an update has just begun
        "raycls-control": application("ControlPlane"),
        "raycls-console": application(),
        "raycls-challenger-1a": application("Challenger"),
        "raycls": application("Classifier"),
    }
    monkeypatch.setattr(served.serve, "status", lambda: SimpleNamespace(applications=found))
    assert served._applications() == ["raycls", "raycls-model-pets"]
