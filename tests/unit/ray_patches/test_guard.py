"""A patch acts only on the code that it was written for."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest

from raycls.cluster.environment import environment
from raycls.errors import ClusterError
from raycls.ray_patches import direct_predict, driver_token, guard, joined_answer, keep_routes, patches
from raycls.ray_patches.guard import CHOICE, Patch, digest, state, usable

OPTIMISATIONS = [patch for patch in patches() if not patch.needed]


@pytest.fixture(autouse=True)
def _forget_earlier_answers() -> None:
    guard._usable.cache_clear()


@pytest.mark.parametrize("patch", patches(), ids=lambda patch: patch.name)
def test_each_patch_matches_what_is_installed(patch: Patch) -> None:
    assert state(patch) == ("active", "")
    assert usable(patch)
    assert patch.buys


def test_a_target_that_changed_turns_its_patch_off_with_one_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    target = next(iter(keep_routes.PATCH.targets))
    source = guard.source_of(target.partition("::")[0])
    head = "def _clear_target_state_and_store_config("
    monkeypatch.setattr(guard, "source_of", lambda file: source.replace(head, head + "  # changed", 1))
    assert digest(target) not in ("", keep_routes.PATCH.targets[target])
    with caplog.at_level(logging.WARNING):
        assert not usable(keep_routes.PATCH)
        assert not usable(keep_routes.PATCH)
    assert [record.getMessage() for record in caplog.records] == [
        f"raycls runs without the patch keep_routes: {target} is not the code that the patch was written for"
    ]
    assert state(keep_routes.PATCH)[0] == "does not match"


def test_a_patch_that_is_off_leaves_the_library_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve._private.application_state import ApplicationState
    from uvicorn.config import HTTP_PROTOCOLS

    monkeypatch.setenv(CHOICE, "none")
    stock = ApplicationState._clear_target_state_and_store_config, dict(HTTP_PROTOCOLS)
    keep_routes.keep()
    assert not joined_answer.install()
    assert (ApplicationState._clear_target_state_and_store_config, dict(HTTP_PROTOCOLS)) == stock
    assert "429" not in environment()["RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER"]


@pytest.mark.parametrize("patch", OPTIMISATIONS, ids=lambda patch: patch.name)
def test_the_variable_chooses_the_patches(patch: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE, "none")
    assert not usable(patch)
    assert state(patch) == ("off", f"{CHOICE}=none")
    monkeypatch.setenv(CHOICE, f"other, {patch.name}")
    assert usable(patch)


def test_a_needed_patch_cannot_be_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CHOICE, "none")
    assert usable(driver_token.PATCH)


def test_a_needed_patch_that_does_not_match_refuses_to_start() -> None:
    other = replace(driver_token.PATCH, version="1.0.0")
    with pytest.raises(ClusterError, match=r"ray 2\.60\.0 is installed, the patch is for 1\.0\.0"):
        usable(other)


def test_another_version_does_not_match() -> None:
    assert "the patch is for 9.9" in guard.mismatch(replace(direct_predict.PATCH, version="9.9"))
    assert "is not installed" in guard.mismatch(replace(direct_predict.PATCH, library="no-such-library"))


def test_a_name_that_is_gone_has_no_digest() -> None:
    assert digest("ray/serve/_private/replica.py::Replica.no_such_method") == ""
    assert digest("ray/no_such_file.py::Replica") == ""
    assert digest("no_such_package/file.py::Replica") == ""
