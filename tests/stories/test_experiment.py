"""A challenger on live traffic: shadow, split, change, end; and challengers that raise, hang, answer NaN or die."""

from __future__ import annotations

import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import requests
import torch
from safetensors.torch import load_file, save_file

from raycls import registry, tracking
from raycls.lifecycle import experiment
from raycls.models.card import WEIGHTS
from raycls.registry import history
from raycls.serving.client.manage import call
from raycls.serving.control import rollout
from raycls.serving.control.deploy import Served
from raycls.training.filing import TrainingResult
from tests.predict import OCTETS, encoded


def _registered(version: registry.ModelVersion, directory: Path) -> registry.ModelVersion:
    with tracking.run("digits", "challenger", tags={}) as current:
        return registry.register(
            "digits",
            current,
            directory,
            fingerprint=version.fingerprint,
            metrics=version.metrics,
            lineage={},
        )


@pytest.fixture
def challenger(trained: TrainingResult) -> registry.ModelVersion:
    """Another version of the session's model: the same network, registered once more."""
    assert trained.version is not None
    return _registered(trained.version, registry.checkpoint(trained.version))


@pytest.fixture
def without_numbers(trained: TrainingResult, tmp_path: Path) -> registry.ModelVersion:
    """A version whose network answers NaN."""
    assert trained.version is not None
    nan = float("nan")
    return _registered(
        trained.version, _with_head(trained.version, tmp_path / "nan", lambda head: head * nan)
    )


def _with_head(
    version: registry.ModelVersion, directory: Path, changed: Callable[[torch.Tensor], torch.Tensor]
) -> Path:
    """Return a copy of the version's checkpoint in which the last layer is changed."""
    shutil.copytree(registry.checkpoint(version), directory)
    weights = load_file(directory / WEIGHTS)
    save_file(weights | {"head.weight": changed(weights["head.weight"]).contiguous()}, directory / WEIGHTS)
    return directory


@pytest.fixture
def traffic(served: Served) -> Iterator[Traffic]:
    running = Traffic(served.url)
    running.start()
    yield running
    running.stop()


class Traffic(threading.Thread):
    """Sends pictures until stopped, each as another client, and keeps what was answered."""

    def __init__(self, url: str):
        super().__init__(daemon=True)
        self._url, self._stopped = url, threading.Event()
        self.statuses: list[int] = []
        self.versions: list[str] = []
        self.seconds: list[float] = []

    def run(self) -> None:
        session, image = requests.Session(), encoded()
        while not self._stopped.is_set():
            headers = {"Content-Type": OCTETS, "X-Client-Id": str(len(self.statuses))}
            started = time.monotonic()
            answer = session.post(f"{self._url}/predict", image, headers=headers, timeout=30)
            self.seconds.append(time.monotonic() - started)
            self.statuses.append(answer.status_code)
            self.versions.append(answer.json().get("model_version", ""))
            time.sleep(0.005)

    def stop(self) -> None:
        self._stopped.set()
        self.join(timeout=60)


def _until(true: Callable[[], Any], seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _champion(served: Served) -> registry.ModelVersion:
    """The version that answers. Stories before this one may have promoted another than the session's."""
    model = requests.get(f"{served.url}/health", timeout=10).json()["model"]
    return registry.resolve(f"{model['name']}/{model['version']}")


def _shown(served: Served, identifier: str) -> dict[str, Any]:
    return call(served.url, "GET", f"/experiments/{identifier}")


@pytest.mark.timeout(300)
def test_shadow_then_split_then_the_end(
    served: Served, challenger: registry.ModelVersion, traffic: Traffic
) -> None:
    champion = _champion(served)
    replicas = _replicas(served)
    wanted = {"challenger": challenger.reference, "mode": "shadow", "share": 1.0}
    started = call(served.url, "POST", "/experiments", wanted)
    assert (started["champion"], started["state"]) == (champion.reference, "running")
    _until(lambda: _shown(served, started["id"])["compared"] > 100)
    assert _shown(served, started["id"])["agreement"] == 1.0  # it is the same network
    series = requests.get(f"{served.url}/metrics", timeout=30).text
    assert f'arm="challenger",experiment="{started["id"]}"' in series
    ended = call(served.url, "DELETE", "/experiments", {"reason": "seen enough"})
    assert (ended["state"], ended["reason"], ended["ended_by"]) == ("ended", "seen enough", "admin")
    assert set(traffic.versions) == {champion.version}

    started = call(served.url, "POST", "/experiments", wanted | {"mode": "split", "share": 0.5})
    _until(lambda: traffic.versions.count(challenger.version) > 100)
    call(served.url, "PATCH", "/experiments", {"share": 0.001})
    _until(lambda: challenger.version not in traffic.versions[-100:])
    call(served.url, "DELETE", "/experiments")
    _until(lambda: not any(record.is_running for record in experiment.records()))
    arms = _shown(served, started["id"])["arms"]
    assert arms["challenger"]["requests"] > 100
    assert arms["challenger"]["failures"] == {}
    assert set(traffic.statuses) == {200}
    assert _replicas(served) == replicas  # none was restarted


def _replicas(served: Served) -> set[str]:
    text = requests.get(f"{served.url}/metrics", timeout=30).text
    return {
        line.split('replica="')[1].split('"')[0] for line in text.splitlines() if "raycls_pending{" in line
    }


@pytest.fixture(autouse=True)
def ended(served: Served) -> Iterator[None]:
    """After the test no experiment runs, also where the test failed."""
    yield
    if any(record.is_running for record in experiment.records()):
        call(served.url, "DELETE", "/experiments")


def _begun(served: Served, challenger: registry.ModelVersion, mode: str) -> str:
    share = 0.9 if mode == "split" else 1.0
    wanted = {"challenger": challenger.reference, "mode": mode, "share": share}
    identifier: str = call(served.url, "POST", "/experiments", wanted)["id"]
    return identifier


def _challengers(identifier: str) -> list[psutil.Process]:
    """The challenger's replicas: as many as the champion has, which may be more than one for a while."""
    name = f"ray::ServeReplica:raycls-challenger-{identifier}"
    found = [
        each
        for each in psutil.process_iter()
        if each.name().startswith(name[:15]) and name in " ".join(each.cmdline())
    ]
    assert found
    return found


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", ["shadow", "split"])
def test_a_challenger_that_answers_nan_is_taken_out_and_nobody_sees_it(
    served: Served, without_numbers: registry.ModelVersion, traffic: Traffic, mode: str
) -> None:
    champion = _champion(served)
    identifier = _begun(served, without_numbers, mode)
    _until(lambda: _shown(served, identifier)["state"] == "ended")
    ended = _shown(served, identifier)
    assert ended["ended_by"] == "raycls"
    assert "not finite" in ended["reason"]
    assert set(traffic.statuses) == {200}
    assert set(traffic.versions) == {champion.version}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGSTOP], ids=["dies", "hangs"])
def test_a_challenger_that_dies_or_hangs_costs_no_request(
    served: Served, challenger: registry.ModelVersion, traffic: Traffic, sent: signal.Signals
) -> None:
    identifier = _begun(served, challenger, "split")
    _until(lambda: traffic.versions.count(challenger.version) > 20)
    replicas = _challengers(identifier)
    for replica in replicas:
        replica.send_signal(sent)
    try:
        _until(lambda: _shown(served, identifier)["state"] == "ended", seconds=10)
    finally:
        for replica in replicas:
            if replica.is_running():
                replica.send_signal(signal.SIGCONT)
    assert _shown(served, identifier)["ended_by"] == "raycls"
    assert set(traffic.statuses) == {200}
    _until(lambda: challenger.version not in traffic.versions[-50:])
    assert max(traffic.seconds) < 3


@pytest.mark.timeout(300)
def test_a_promotion_that_costs_confidence_is_rolled_back_and_no_request_fails(
    served: Served, trained: TrainingResult, champion: TrainingResult, traffic: Traffic, tmp_path: Path
) -> None:
    """The network with a flat head has the same classes first, so that the gate's checks pass, with no confidence."""
    assert trained.version is not None
    former = registry.resolve("digits")
    flat = _registered(
        trained.version, _with_head(trained.version, tmp_path / "flat", lambda head: head * 0.02)
    )
    _until(lambda: len(traffic.statuses) > 300)
    rollout.promote("digits", flat.version, force="a test")
    _until(lambda: traffic.versions[-1] == flat.version)
    _until(lambda: registry.resolve("digits").version == former.version)
    _until(lambda: set(traffic.versions[-50:]) == {former.version})
    event = history.events("digits")[0]
    assert (event.kind, event.by, event.version) == ("rollback", "raycls", former.version)
    assert "mean confidence" in event.reason
    assert set(traffic.statuses) == {200}
