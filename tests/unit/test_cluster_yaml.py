"""cluster.yaml: Ray's launcher accepts it, and it says what raycls says."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml

from raycls.cluster.environment import environment

FILE = Path(__file__).parents[2] / "cluster.yaml"


@pytest.fixture
def document() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


@pytest.fixture
def variables(document: dict[str, Any]) -> dict[str, str]:
    """The --env options, read as the shell reads them when it starts the container."""
    options = [word for option in document["docker"]["run_options"] for word in shlex.split(option)]
    pairs = [option.removeprefix("--env=").split("=", 1) for option in options if option.startswith("--env=")]
    return dict(pairs)


def test_rays_own_schema_accepts_it(document: dict[str, Any]) -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler" / "ray-schema.json").read_text())
    jsonschema.validate(document, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "max_workers": "four"}, schema)


def test_the_environment_is_that_of_raycls_env(variables: dict[str, str]) -> None:
    ours = {"RAYCLS_STORAGE", "MLFLOW_TRACKING_URI"}
    assert {name: value for name, value in variables.items() if name not in ours} == environment()


def test_storage_and_mlflow_are_uris(variables: dict[str, str]) -> None:
    assert "://" in variables["RAYCLS_STORAGE"]
    assert "://" in variables["MLFLOW_TRACKING_URI"]


def test_gpu_workers_come_and_go(document: dict[str, Any]) -> None:
    worker = document["available_node_types"]["gpu_worker"]
    assert worker["min_workers"] == 0
    assert 0 < worker["max_workers"] <= document["max_workers"]


def test_the_image_has_the_ray_of_this_environment(document: dict[str, Any]) -> None:
    assert document["docker"]["image"].startswith(f"rayproject/ray:{ray.__version__}-py3")


def test_every_node_gets_the_same_token(document: dict[str, Any]) -> None:
    assert document["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
