"""A real Prometheus with deploy/'s configuration: every panel is filled, and a fault raises its alert."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from raycls import cluster
from raycls.benchmark.load import Load, LoadGenerator
from raycls.cluster.environment import free_port
from raycls.serving.control.deploy import Served
from tests.load import asking
from tests.predict import encoded

pytestmark = pytest.mark.skipif(
    not shutil.which("prometheus"), reason="no Prometheus here: `make setup-prometheus` installs it"
)

DEPLOY = Path(__file__).parents[2] / "deploy"


@contextmanager
def _prometheus(served: Served, folder: Path) -> Iterator[str]:
    """Run Prometheus as deploy/ has it, but asking every second and without patience. Yield its address."""
    config = (DEPLOY / "prometheus" / "prometheus.yml").read_text()
    running = cluster.status()
    assert running
    for ours, here in (
        ("127.0.0.1:8000", urlsplit(served.url).netloc),
        (": 15s", ": 1s"),
        ("/tmp/ray/", f"{running.directory}/"),
    ):
        assert ours in config
        config = config.replace(ours, here)
    (folder / "prometheus.yml").write_text(config)
    alerts = (DEPLOY / "prometheus" / "alerts.yaml").read_text()
    (folder / "alerts.yaml").write_text(alerts.replace("for: 5m", "for: 0s"))
    address = f"127.0.0.1:{free_port(9090)}"
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *("prometheus", "--config.file", str(folder / "prometheus.yml")),
                *("--storage.tsdb.path", str(folder / "data"), "--web.listen-address", address),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield f"http://{address}/api/v1"
    finally:
        process.terminate()
        process.wait(timeout=30)


def _until(found: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + 40
    while True:
        try:
            if answer := found():
                return answer
        except requests.RequestException:
            pass  # it is starting
        assert time.monotonic() < deadline, what
        time.sleep(0.5)


def _queries() -> Iterator[tuple[str, str]]:
    """Yield the title of each panel and its queries, but for what only a machine with a GPU has."""
    for file in sorted((DEPLOY / "grafana" / "dashboards").glob("*.json")):
        dashboard = json.loads(file.read_text())
        for panel in dashboard["panels"]:
            if panel["title"] != "GPU":
                yield from (
                    (f"{dashboard['title']}: {panel['title']}", each["expr"]) for each in panel["targets"]
                )


def _firing(api: str) -> set[str]:
    alerts = requests.get(f"{api}/alerts", timeout=10).json()["data"]["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}


@pytest.mark.long
def test_every_panel_is_filled_and_a_fault_raises_its_alert(served: Served, tmp_path: Path) -> None:
    with _prometheus(served, tmp_path) as api:
        with asking(served):
            for title, query in _queries():
                asked = {"query": query.replace("$__rate_interval", "10s")}

                def values(asked: dict[str, str] = asked) -> list[Any]:
                    found = requests.get(f"{api}/query", params=asked, timeout=10).json()["data"]["result"]
                    return [series for series in found if series["value"][1] != "NaN"]

                _until(values, f"the panel {title!r} is empty: {query}")
        assert "RayclsBusy" not in _firing(api)

        pictures = tmp_path / "pictures" / "0"
        pictures.mkdir(parents=True)
        (pictures / "0.png").write_bytes(encoded(size=(300, 300)))  # takes a while to decode
        with LoadGenerator(f"{served.url}/predict", pictures.parent) as generator:
            sample = generator.measure(Load(connections=400, seconds=5))
        assert sample.errors["429"] > 0.01 * sample.answered
        _until(lambda: "RayclsBusy" in _firing(api), "RayclsBusy does not fire")
