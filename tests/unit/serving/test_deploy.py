"""Reading serve_config.yaml: what is pinned, what is refused, and what is drawn from Serve's messages."""

from __future__ import annotations

from pathlib import Path

import pytest
from ray.serve.schema import ServeDeploySchema

from raycls.errors import ClusterError, ConfigError, UnknownModelError
from raycls.serving import deploy

CONFIG = Path(__file__).parents[3] / "serve_config.yaml"


def test_the_file_is_one_that_serve_accepts() -> None:
    document = deploy.load(CONFIG)
    schema = ServeDeploySchema.model_validate(document)
    assert (document["http_options"]["host"], document["http_options"]["port"]) == ("127.0.0.1", 8000)
    assert schema.applications[0].import_path == "raycls.serving.app:build"


def test_an_update_loses_no_request() -> None:
    (deployment,) = deploy.load(CONFIG)["applications"][0]["deployments"]
    assert deployment["max_surge_percent"] > 0  # Serve's default of 0 stops the old replica first


def test_model_port_and_replicas_are_pinned() -> None:
    document = deploy.load(CONFIG, model="digits/3", port=8123, replicas=2)
    (deployment,) = document["applications"][0]["deployments"]
    assert document["applications"][0]["args"]["model"] == "digits/3"
    assert document["http_options"]["port"] == 8123
    assert deployment["num_replicas"] == 2
    assert "autoscaling_config" not in deployment
    ServeDeploySchema.model_validate(document)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("max_batch_size: 64", "max_batch_size: 0", "max_batch_size=0"),
        ("max_batch_size: 64", "max_bach_size: 64", "max_bach_size"),
        ("threads: 1", "threads: many", "threads='many'"),
        ("name: Classifier", "name: Other", "Classifier"),
        ("applications:", "apps:", "Classifier"),
        ("port: 8000", "port: [", "not YAML"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path: Path, old: str, new: str, words: str) -> None:
    path = tmp_path / "serve_config.yaml"
    assert old in CONFIG.read_text()
    path.write_text(CONFIG.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=words.replace("[", r"\[")) as caught:
        deploy.load(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no"):
        deploy.load(tmp_path / "serve_config.yaml")


def test_deploy_without_a_cluster(home: Path) -> None:
    with pytest.raises(ClusterError, match="raycls up"):
        deploy.deploy(CONFIG)


def test_up_without_a_champion_starts_nothing(home: Path) -> None:
    with pytest.raises(UnknownModelError, match="raycls t"):
        deploy.up(CONFIG, port=0)
    assert not (home / "cluster.json").exists()


def test_the_reason_is_the_last_line_of_a_traceback() -> None:
    message = "Deploying app failed with exception:\nTraceback:\n  File x\nraycls.errors.CheckpointError: damaged\n\n"
    assert deploy.reason(message) == "raycls.errors.CheckpointError: damaged"
    assert deploy.reason("") == ""
