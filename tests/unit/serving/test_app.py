"""An application that other machines reach is built only where it is said who may ask. One without a model says so."""

from __future__ import annotations

import pytest

from raycls.errors import UsageError
from raycls.serving.app import NoModel, check_exposure
from raycls.serving.replica.managed import Managed
from raycls.serving.settings import ServingConfig

DIGEST = "0" * 64


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.1.2.3", "192.168.0.7", "serving.example.org", None])
def test_a_server_that_others_reach_needs_a_token_or_a_word(host: str | None) -> None:
    with pytest.raises(UsageError, match="asks for no token: add a token with"):
        check_exposure(ServingConfig(), host)
    check_exposure(ServingConfig(token_sha256=DIGEST), host)
    check_exposure(ServingConfig(no_auth=True), host)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_loopback_needs_none(host: str) -> None:
    check_exposure(ServingConfig(), host)


def test_the_control_plane_may_ask_also_where_no_model_is_served() -> None:
    questions = {name for name in vars(Managed) if not name.startswith("_")} - {"take_up"}
    assert len(questions) == 6
    assert questions <= set(dir(NoModel.func_or_class))
