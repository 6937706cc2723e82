"""Which cluster is asked, what it must not be told, and what is not replaced."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import yaml

from raycls import cluster, local_http
from raycls.benchmark import replicas
from raycls.cluster import lifecycle
from raycls.errors import ClusterError, UsageError
from raycls.serving.control import serve_rest
from raycls.serving.control.serve_rest import Serve, find

DASHBOARD = "http://127.0.0.1:8265"
CONFIG = Path(__file__).parents[4] / "serve_config.yaml"


@pytest.fixture
def details(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What Serve tells of itself, for a test to fill."""
    found: dict[str, Any] = {"applications": {}}

    def request(method: str, url: str, **options: Any) -> SimpleNamespace:
        assert (method, url) == ("GET", f"{DASHBOARD}/api/serve/applications/")
        return SimpleNamespace(ok=True, json=lambda: found)

    monkeypatch.setattr(local_http, "request", request)
    return found


def _ours(document: dict[str, Any]) -> dict[str, Any]:
    return {each["name"]: {"deployed_app_config": each} for each in document["applications"]}


def test_what_a_cluster_serves_is_told_and_what_others_deployed_is_left_alone(
    details: dict[str, Any],
) -> None:
    assert Serve(DASHBOARD).served() is None
    document = yaml.safe_load(CONFIG.read_text())
    details["applications"] = _ours(document)
    details["http_options"] = {"host": "0.0.0.0", "port": 9000}
    served = Serve(f"{DASHBOARD}/").served()
    assert served is not None
    assert (served.host, served.port) == ("0.0.0.0", 9000)
    details["applications"]["theirs"] = {"deployed_app_config": {"import_path": "their.app"}}
    with pytest.raises(ClusterError, match="theirs, which raycls did not deploy"):
        Serve(DASHBOARD).served()


def test_rays_token_does_not_travel_unencrypted() -> None:
    with pytest.raises(UsageError, match="Ray's token would travel unencrypted"):
        find("http://ray-head.example:8265")
    assert find("https://ray-head.example") == Serve("https://ray-head.example")
    assert find(DASHBOARD) == Serve(DASHBOARD)


def test_a_ray_that_ends_with_its_process_is_no_cluster_to_deploy_on(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find() is None
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(lifecycle.PRIVATE, "is_set", lambda: True)
    assert cluster.own_dashboard() is None
    assert find() is None


def test_a_comparison_of_replicas_does_not_replace_what_is_served(
    details: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    replicas.check_free()  # nothing runs here
    monkeypatch.setattr(replicas, "own_serve", lambda: serve_rest.Serve(DASHBOARD, here=True))
    replicas.check_free()  # it serves nothing
    details["applications"] = _ours(yaml.safe_load(CONFIG.read_text()))
    with pytest.raises(UsageError, match="--yes"):
        replicas.check_free()
