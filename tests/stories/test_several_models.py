"""Several models behind one address: each answers at its own path, is promoted by itself, and knows no other."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from harness.served_copy import register_again

from raycls import registry, tracking
from raycls.cli import run
from raycls.cluster.environment import free_port
from raycls.registry import ModelVersion
from raycls.serving.client.manage import call
from raycls.serving.control import deploy, rollout
from raycls.serving.control.configuration import ServeConfiguration
from raycls.serving.control.deploy import Served
from raycls.training.filing import TrainingResult
from tests.load import asking
from tests.predict import OCTETS, encoded
from tests.product import until

CONFIG = Path(__file__).parents[2] / "serve_config.yaml"
OTHER = "other-2.1"


@pytest.fixture
def second(trained: TrainingResult) -> Iterator[ModelVersion]:
    """The session's network as version 1 of another model, which is champion of its name."""
    assert trained.version is not None
    found = register_again(replace(trained.version, name=OTHER), registry.checkpoint(trained.version))
    yield registry.set_alias(OTHER, found.version)
    tracking.client().delete_registered_model_alias(OTHER, registry.CHAMPION)


@pytest.fixture
def both(
    digits_home: Path, second: ModelVersion, home: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Served]:
    """A cluster of its own with one replica of each model."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{digits_home}/mlflow.db")
    document = ServeConfiguration.read(CONFIG).pinned(model="digits", port=free_port(8000), replicas=1)
    document.arguments |= {"max_pending": 400, "access_log": 1.0}
    up = deploy.up(document.with_model(OTHER), detach=True, num_cpus=3)
    yield up
    assert deploy.down()


def _model(url: str) -> tuple[str, str]:
    model = requests.get(f"{url}/health", timeout=10).json()["model"]
    return model["name"], model["version"]


def _predict(url: str, path: str, **headers: str) -> requests.Response:
    headers["Content-Type"] = OCTETS
    return requests.post(f"{url}{path}", encoded(), headers=headers, timeout=30)


def _an_experiment_on_the_second(url: str, digits: ModelVersion, champion: ModelVersion) -> None:
    copy = register_again(champion, registry.checkpoint(champion))
    wanted = {"challenger": copy.reference, "mode": "split", "share": 0.5}
    begun = call(url, "POST", "/experiments", wanted)
    assert (begun["champion"], begun["state"]) == (champion.reference, "running")
    clients = map(str, itertools.count())

    def version_of(path: str) -> str:
        answer = _predict(url, path, **{"X-Client-Id": next(clients)})
        assert answer.status_code == 200, answer.text
        version: str = answer.json()["model_version"]
        return version

    until(lambda: version_of(f"/models/{OTHER}/predict") == copy.version)
    assert {version_of(f"/models/{OTHER}/predict") for _ in range(50)} == {champion.version, copy.version}
    assert {version_of("/predict") for _ in range(20)} == {digits.version}
    # A challenger answers nobody who names a version.
    of_one = f"/models/{OTHER}/versions/{champion.version}/predict"
    assert {version_of(of_one) for _ in range(20)} == {champion.version}
    call(url, "DELETE", "/experiments")


@pytest.mark.timeout(400)
def test_two_models_behind_one_address(
    both: Served,
    trained: TrainingResult,
    second: ModelVersion,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    assert trained.version is not None
    digits = registry.resolve("digits")
    other = f"{both.url}/models/{OTHER}"
    assert both.others == {other: second.reference}
    assert _model(both.url) == _model(f"{both.url}/models/digits") == ("digits", digits.version)
    assert _model(other) == _model(f"{other}/versions/{second.version}") == (OTHER, second.version)

    answers = {}
    for path, version in (
        ("/predict", digits),
        ("/models/digits/predict", digits),
        (f"/models/digits/versions/{digits.version}/predict", digits),
        (f"/models/{OTHER}/predict", second),
        (f"/models/{OTHER}/versions/{second.version}/predict", second),
    ):
        answer = _predict(both.url, path)
        assert answer.status_code == 200, answer.text
        assert answer.json()["model_version"] == version.version
        answers[path] = answer.json()["class_name"]
    assert len(set(answers.values())) == 1  # it is the same network
    for path in ("/models/nobody/predict", f"/models/{OTHER}/versions/99/predict"):
        assert _predict(both.url, path).status_code == 404
        assert _predict(both.url, path).headers["Content-Type"] == "application/problem+json"

    # The Open Inference Protocol has the name in its own place.
    for name, version in (("digits", digits), (OTHER, second)):
        told = requests.get(f"{both.url}/v2/models/{name}", timeout=10).json()
        assert (told["name"], told["versions"]) == (name, [version.version])
    assert requests.get(f"{both.url}/v2/models/nobody", timeout=10).status_code == 404

    # The routes of the control plane below /models are still its own, and need the token.
    assert requests.get(f"{both.url}/models/{OTHER}/history", timeout=10).status_code == 401
    assert call(both.url, "GET", f"/models/{OTHER}/history")["history"] == []

    picture = tmp_path / "a.png"
    picture.write_bytes(encoded())
    run(["predict", other, str(picture), "--json"])
    (found,) = json.loads(capsys.readouterr().out)["predictions"]
    assert found["model_version"] == second.version

    # A promotion of one serves it, loses no request, and leaves the other alone.
    newer = register_again(second, registry.checkpoint(second))
    beside = replace(both, url=other)
    with asking(both) as (failed, seen), asking(beside) as (others_failed, others_seen):
        rollout.promote(OTHER, newer.version, force="a copy")
        until(lambda: newer.version in others_seen, 20)
    assert (set(failed), set(others_failed)) == (set(), set())
    assert (seen, others_seen) == ({digits.version}, {second.version, newer.version})
    assert _model(both.url) == ("digits", digits.version)

    _an_experiment_on_the_second(both.url, digits, newer)
    metrics = requests.get(f"{other}/metrics", timeout=10).text
    assert f'name="{OTHER}"' in metrics
    assert 'name="digits"' not in metrics
