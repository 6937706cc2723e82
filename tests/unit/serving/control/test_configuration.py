"""Reading serve_config.yaml: what is pinned, what is refused, and what an update keeps."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from raycls.errors import ConfigError, UsageError
from raycls.registry.model_version import REJECTION, ModelVersion
from raycls.serving.control.configuration import IMPORT_PATH, ServeConfiguration
from raycls.serving.settings import ServingConfig

ROOT = Path(__file__).parents[4]
CONFIG, CLUSTER_CONFIG = ROOT / "serve_config.yaml", ROOT / "deploy" / "serve_config.yaml"
VERSION = ModelVersion(
    name="digits",
    version="3",
    aliases=("champion",),
    run_id="r",
    uri="checkpoints/r",
    sha256="0" * 64,
    fingerprint="f",
    metrics={"val_accuracy": 0.9},
    tags={"engine": "openvino"},
)


def test_the_file_is_one_that_serve_accepts() -> None:
    document = ServeConfiguration.read(CONFIG)
    schema = ServeDeploySchema.model_validate(document.content)
    assert (document.host, document.port, document.url) == ("127.0.0.1", 8000, "http://127.0.0.1:8000")
    assert (document.name, document.model, document.replicas) == ("raycls", None, 1)
    assert schema.applications[0].import_path == "raycls.serving.app:build"


def test_the_configuration_of_a_cluster_differs_in_who_is_reached_and_how_many_answer() -> None:
    here, there = (ServeConfiguration.read(path) for path in (CONFIG, CLUSTER_CONFIG))
    ServeDeploySchema.model_validate(there.content)
    assert (here.host, there.host) == ("127.0.0.1", "0.0.0.0")
    assert there.is_exposed
    assert there.replicas > here.replicas
    for document in (here, there):
        del document.content["http_options"]["host"]
        for name in ("min_replicas", "max_replicas"):
            del document.deployment["autoscaling_config"][name]
    assert here.content == there.content


def test_an_update_loses_no_request() -> None:
    # Serve's default of 0 stops the old replica first.
    assert ServeConfiguration.read(CONFIG).deployment["max_surge_percent"] > 0


def test_model_port_and_replicas_are_pinned() -> None:
    read = ServeConfiguration.read(CONFIG)
    document = read.pinned(model="digits/3", port=8123, replicas=2)
    assert (document.model, document.host, document.port, document.replicas) == (
        "digits/3",
        "127.0.0.1",
        8123,
        2,
    )
    assert "autoscaling_config" not in document.deployment
    schema = ServeDeploySchema.model_validate(document.content)
    assert schema.applications[0].deployments[0].num_replicas == 2
    assert (read.model, read.port, read.replicas) == (None, 8000, 1)  # what was read is as it was


def test_serve_is_told_what_the_registry_knows_of_a_version() -> None:
    document = ServeConfiguration.read(CONFIG).pinned(model=VERSION)
    ServeDeploySchema.model_validate(document.content)
    assert document.model == "digits/3"
    assert json.loads(json.dumps(document.arguments["version"])) == document.arguments["version"]
    promoted = dataclasses.replace(VERSION, tags=VERSION.tags | {"promoted_at": "1.5"}, metrics={})
    assert ServeConfiguration.read(CONFIG).pinned(model=promoted).content == document.content
    old = {tag: value for tag, value in promoted.tags.items() if tag != "engine"}
    served = ServeConfiguration.read(CONFIG).pinned(model=dataclasses.replace(promoted, tags=old)).settings
    assert served.version is not None
    assert served.version.engine == "torch", "a champion from before engines were always stored"
    rejecting = dataclasses.replace(VERSION, tags=VERSION.tags | {REJECTION: "{}"})
    changed = ServeConfiguration.read(CONFIG).pinned(model=rejecting)
    assert changed.arguments["version"]["tags"][REJECTION] == "{}", "replicas are replaced, and have it"
    assert document.settings.version is not None
    assert (document.settings.version.engine, document.settings.version.uri) == ("openvino", "checkpoints/r")
    assert document.pinned(model="digits/4").settings.version is None
    document.arguments["model"] = "digits/4"
    with pytest.raises(ConfigError, match="version is digits/3, and model is not"):
        _ = document.settings


def test_all_interfaces_are_reached_by_loopback() -> None:
    assert ServeConfiguration.read(CONFIG).pinned(host="0.0.0.0").url == "http://127.0.0.1:8000"


def test_an_update_keeps_host_port_and_token() -> None:
    former = ServeConfiguration.read(CONFIG).pinned(host="0.0.0.0", port=8123)
    former.arguments["token_sha256"] = "0" * 64
    document = ServeConfiguration.read(CONFIG).pinned(model="digits/3", port=8000)
    updated = document.in_place_of(former)
    assert (updated.model, updated.host, updated.port) == ("digits/3", "0.0.0.0", 8123)
    assert updated.arguments["token_sha256"] == "0" * 64
    assert (document.port, document.asks_for_token) == (8000, False)
    assert not former.in_place_of(document).asks_for_token


def test_a_second_model_has_a_route_and_the_first_ones_settings_and_token() -> None:
    first = ServeConfiguration.read(CONFIG).pinned(model=VERSION)
    first.arguments |= {"token_sha256": "0" * 64, "allowed_hosts": ["a.example"]}
    document = first.with_model("pets-2.1@champion")
    ServeDeploySchema.model_validate(document.content)
    assert (document.name, document.model) == ("raycls", "digits/3")
    _, other = document.models
    assert (other.name, other.route, other.model) == (
        "raycls-model-pets-2.1",
        "/models/pets-2.1",
        "pets-2.1@champion",
    )
    assert other.url == "http://127.0.0.1:8000/models/pets-2.1"
    assert other.settings.version is None
    assert (other.asks_for_token, other.arguments["allowed_hosts"]) == (True, ["a.example"])
    pinned = document.of(other.name).pinned(model="pets-2.1/4", replicas=3)
    assert [(each.model, each.replicas) for each in pinned.models] == [("digits/3", 1), ("pets-2.1/4", 3)]
    for opened in (document.open_to_all(), pinned.open_to_all()):
        assert [each.arguments.get("no_auth") for each in opened.models] == [True, True]
        assert not any(each.asks_for_token for each in opened.models)
    former = ServeConfiguration.read(CONFIG)
    assert not any(each.asks_for_token for each in document.in_place_of(former).models)
    with pytest.raises(UsageError, match="already"):
        document.with_model("pets-2.1/9")
    with pytest.raises(UsageError, match="name the first model too"):
        ServeConfiguration.read(CONFIG).with_model("pets")
    with pytest.raises(UsageError, match="part of a path"):
        document.with_model("my pets")


def test_a_file_with_two_models(tmp_path: Path) -> None:
    content = yaml.safe_load(CONFIG.read_text())
    first = content["applications"][0]
    second = first | {"name": "raycls-model-pets", "route_prefix": "/models/pets", "args": {"model": "pets"}}
    content["applications"].insert(0, second)
    file = tmp_path / "serve.yaml"
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="each needs a name: add model: NAME to the args of raycls"):
        ServeConfiguration.read(file)
    first["args"]["model"] = "cats"
    file.write_text(yaml.safe_dump(content))  # with an alias, as both have the same deployments
    assert "*id" in file.read_text()
    read = ServeConfiguration.read(file)
    assert [each.route for each in read.models] == ["/", "/models/pets"]
    assert [each.replicas for each in read.pinned(replicas=2).models] == [2, 1]
    second["args"] = {"model": "pets", "no_auth": True}
    file.write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match="two models differ in no_auth: leave out all but that of raycls"):
        ServeConfiguration.read(file)
    for route, args in (("/pets", {"model": "pets"}), ("/models/pets", {})):
        second |= {"route_prefix": route, "args": args}
        file.write_text(yaml.safe_dump(content))
        with pytest.raises(ConfigError, match="route_prefix: /models/"):
            ServeConfiguration.read(file)


@pytest.mark.parametrize("options", [None, {}, {"host": None, "port": None}])
def test_what_the_file_leaves_out(options: dict[str, None] | None) -> None:
    deployment = {"name": "Classifier", "autoscaling_config": None, "num_replicas": "auto"}
    document = ServeConfiguration(
        {
            "http_options": options,
            "applications": [{"args": None, "import_path": IMPORT_PATH, "deployments": [deployment]}],
        }
    )
    assert (document.name, document.model, document.replicas) == ("default", None, 1)
    assert document.url == "http://127.0.0.1:8000"
    # Told to Serve, whose own default host is everywhere.
    assert document.content["http_options"] == {"host": "127.0.0.1", "port": 8000}
    assert document.settings == ServingConfig()
    assert document.pinned(model="digits/3").content["applications"][0]["args"] == {"model": "digits/3"}


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
        ServeConfiguration.read(path)
    assert "\n" not in str(caught.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no file"):
        ServeConfiguration.read(tmp_path / "serve_config.yaml")


def test_names_reach_every_application_beside_those_of_the_file(tmp_path: Path) -> None:
    def names(document: ServeConfiguration) -> list[list[str]]:
        return [
            list(application["args"]["allowed_hosts"]) for application in document.content["applications"]
        ]

    document = ServeConfiguration.read(CONFIG).pinned(names=("a.example",))
    assert names(document) == [["a.example"]] * 3
    path = tmp_path / "serve_config.yaml"
    path.write_text(
        CONFIG.read_text().replace("max_pending:", "allowed_hosts: [b.example]\n      max_pending:", 1)
    )
    document = ServeConfiguration.read(path).pinned(names=("a.example",)).pinned(port=8001)
    assert names(document) == [["b.example", "a.example"]] * 3


def test_raycls_has_its_own_file_where_the_folder_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert (
        ServeConfiguration.read(Path("serve_config.yaml")).content == ServeConfiguration.read(CONFIG).content
    )
    assert "raycls's own is used" in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"there is no file other\.yaml"):
        ServeConfiguration.read(Path("other.yaml"))
    Path("serve_config.yaml").write_text(CONFIG.read_text().replace("port: 8000", "port: 8123"))
    assert ServeConfiguration.read(Path("serve_config.yaml")).port == 8123
