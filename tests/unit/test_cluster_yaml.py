"""cluster.yaml: Ray's launcher accepts it, and it says what raycls says."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
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


def test_rays_launcher_makes_nodes_of_it(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `ray up` does before the first node starts, on a pretended AWS: moto's."""
    (tmp_path / ".ssh").mkdir()
    for name, value in (
        ("HOME", str(tmp_path)),
        ("AWS_ACCESS_KEY_ID", "test"),
        ("AWS_SECRET_ACCESS_KEY", "test"),
        ("AWS_DEFAULT_REGION", document["provider"]["region"]),
    ):
        monkeypatch.setenv(name, value)
    from moto import mock_aws
    from ray.autoscaler.sdk import bootstrap_config

    with mock_aws():
        nodes = bootstrap_config(document, no_config_cache=True)["available_node_types"]
    assert nodes["gpu_worker"]["resources"]["GPU"] == 1
    assert "GPU" not in nodes["head"]["resources"]
    for node in nodes.values():
        made = node["node_config"]
        assert made["IamInstanceProfile"]["Name"].startswith("raycls-"), "rights by a profile, not by keys"
        (disk,) = made["BlockDeviceMappings"]
        assert disk["Ebs"]["VolumeSize"] >= 100
        assert made["SubnetIds"]
        assert made["SecurityGroupIds"]


def test_ray_starts_with_the_environment_of_raycls_env(
    document: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The start commands as they stand, with programs of their names that say what they see."""
    (tmp_path / "ray").write_text('#!/bin/sh\n[ "$1" = stop ] || env -0 > "$HOME/seen"\n')
    (tmp_path / "raycls").write_text(f'#!/bin/sh\nexec {sys.executable} -m raycls "$@"\n')
    for program in ("ray", "raycls"):
        (tmp_path / program).chmod(0o755)
    monkeypatch.setenv("RAY_AUTH_TOKEN", "f" * 64)  # all nodes have the same
    outside = {
        "RAY_AUTH_TOKEN": "f" * 64,
        "PATH": f"{tmp_path}:/usr/bin:/bin",
        "HOME": str(tmp_path),
        "RAY_HEAD_IP": "10.0.0.1",
    }
    for key in ("head_start_ray_commands", "worker_start_ray_commands"):
        (tmp_path / "seen").unlink(missing_ok=True)
        for command in document[key]:
            subprocess.run(["bash", "-c", command], env=outside, check=True, timeout=60)
        seen = dict(line.split("=", 1) for line in (tmp_path / "seen").read_text().split("\0") if line)
        assert environment().items() <= seen.items()


def test_what_the_nodes_share_has_uris(variables: dict[str, str]) -> None:
    for name in ("RAYCLS_STORAGE", "MLFLOW_TRACKING_URI", "RAYCLS_STUDIES"):
        assert "://" in variables[name]


def test_gpu_workers_come_and_go(document: dict[str, Any]) -> None:
    worker = document["available_node_types"]["gpu_worker"]
    assert worker["min_workers"] == 0
    assert 0 < worker["max_workers"] <= document["max_workers"]


def test_the_image_has_the_ray_of_this_environment(document: dict[str, Any]) -> None:
    assert document["docker"]["image"].startswith(f"rayproject/ray:{ray.__version__}-py3")


def test_every_node_gets_the_same_token(document: dict[str, Any]) -> None:
    assert document["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"
