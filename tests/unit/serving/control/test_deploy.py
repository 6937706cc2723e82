"""What does not start, and what is drawn from Serve's messages."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycls import home as homes
from raycls import registry
from raycls.errors import ClusterError, UnknownModelError
from raycls.serving.control import deploy
from raycls.serving.control.configuration import ServeConfiguration
from raycls.serving.control.serve_rest import reason

CONFIG = Path(__file__).parents[4] / "serve_config.yaml"


def test_deploy_without_a_cluster(home: Path) -> None:
    with pytest.raises(ClusterError, match="raycls up"):
        deploy.deploy(ServeConfiguration.read(CONFIG))


def test_up_without_a_champion_starts_nothing(home: Path) -> None:
    with pytest.raises(UnknownModelError, match="raycls t"):
        deploy.up(ServeConfiguration.read(CONFIG).pinned(port=0))
    assert not (home / "cluster.json").exists()


def test_the_reason_is_the_last_line_of_a_traceback() -> None:
    message = "Deploying app failed with exception:\nTraceback:\n  File x\nraycls.errors.CheckpointError: damaged\n\n"
    assert reason(message) == "raycls.errors.CheckpointError: damaged"
    assert reason("") == ""


def test_a_promotion_that_ends_with_the_server_is_said(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    deploy.say_what_ends()
    assert capsys.readouterr().err == ""
    with homes.lock(registry.PROMOTING, "busy"):
        deploy.say_what_ends()
    assert "a promotion or rollback is under way, and ends without effect" in capsys.readouterr().err
