"""deploy/kubernetes: schemas of Kubernetes and KubeRay take it, and it serves what deploy/serve_config.yaml serves."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from raycls.config import validated
from raycls.serving.settings import ServingConfig

DEPLOY = Path(__file__).parents[3] / "deploy"
FOLDER = DEPLOY / "kubernetes"
# A file of the KubeRay repository: helm-chart/kuberay-operator/crds/ray.io_rayservices.yaml
CRD = os.environ.get("KUBERAY_RAYSERVICE_CRD", "")
OWN = (
    "RayService",
    "ScrapeConfig",
    "PodMonitor",
    "PrometheusRule",
    "Kustomization",
)  # kinds that Kubernetes itself does not know
OURS = {"allowed_hosts", "token_sha256"}  # arguments that deploy/serve_config.yaml leaves out


def _documents() -> Iterator[dict[str, Any]]:
    for file in sorted(FOLDER.glob("*.yaml")):
        yield from yaml.safe_load_all(file.read_text())


def _named(kind: str, name: str) -> dict[str, Any]:
    (found,) = [each for each in _documents() if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def _pods() -> Iterator[dict[str, Any]]:
    """Yield the specification of each pod."""
    for document in _documents():
        match document["kind"]:
            case "Deployment":
                yield document["spec"]["template"]["spec"]
            case "CronJob":
                yield document["spec"]["jobTemplate"]["spec"]["template"]["spec"]
            case "RayService":
                cluster = document["spec"]["rayClusterConfig"]
                for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
                    yield group["template"]["spec"]


@pytest.mark.parametrize(
    "document", list(_documents()), ids=lambda each: f"{each['kind']}-{each.get('metadata', {}).get('name')}"
)
def test_kubernetes_takes_it(document: dict[str, Any]) -> None:
    if document["kind"] in OWN:
        return
    kubernetes_validate.validate(document, kubernetes_validate.latest_version(), strict=True)
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(
            {**document, "nothing": 1}, kubernetes_validate.latest_version(), strict=True
        )


@pytest.mark.skipif(not CRD, reason="KUBERAY_RAYSERVICE_CRD names no file of KubeRay's schema")
def test_kuberay_takes_it() -> None:
    versions = {each["name"]: each for each in yaml.safe_load(Path(CRD).read_text())["spec"]["versions"]}
    schema = versions["v1"]["schema"]["openAPIV3Schema"]
    document = _named("RayService", "raycls")
    jsonschema.validate(document, schema)
    assert list(_unknown(schema, document)) == []
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**document, "spec": {"rayClusterConfig": {"workerGroupSpecs": 1}}}, schema)


def _unknown(schema: dict[str, Any], value: Any, path: str = "") -> Iterator[str]:
    """Yield the fields that a schema does not know: a server of Kubernetes would drop them."""
    if isinstance(value, list):
        for each in value:
            yield from _unknown(schema.get("items", {}), each, path)
    elif isinstance(value, dict) and "properties" in schema and path != ".metadata":
        for name, each in value.items():
            if name in schema["properties"]:
                yield from _unknown(schema["properties"][name], each, f"{path}.{name}")
            elif not schema.get("x-kubernetes-preserve-unknown-fields"):
                yield f"{path}.{name}"


def test_it_serves_what_the_configuration_for_several_machines_serves() -> None:
    serves = yaml.safe_load(_named("RayService", "raycls")["spec"]["serveConfigV2"])
    wanted = yaml.safe_load((DEPLOY / "serve_config.yaml").read_text())
    ServeDeploySchema.model_validate(serves)
    arguments = serves["applications"][0]["args"]
    validated(ServingConfig, dict(arguments))
    assert arguments["token_sha256"] == "0" * 64, (
        "no token has this digest: nobody gets in before it is edited"
    )
    for application in serves["applications"]:
        assert "raycls-serve-svc" in application["args"]["allowed_hosts"], "KubeRay sends it to Ray as it is"
        application["args"] = {name: each for name, each in application["args"].items() if name not in OURS}
    # Other pods reach the dashboard, so that the control plane need not be on the head.
    del wanted["applications"][1]["deployments"][0]["ray_actor_options"]["resources"]
    assert serves == wanted


def test_its_alerts_are_those_of_prometheus() -> None:
    rules = _named("PrometheusRule", "raycls")["spec"]
    assert rules == yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())


def test_only_pods_that_answer_get_predictions() -> None:
    """KubeRay's service chooses every worker that is ready."""
    for group in _named("RayService", "raycls")["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        assert container["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_no_pod_has_more_rights_than_it_needs() -> None:
    pods = list(_pods())
    assert len(pods) == 5
    for pod in pods:
        assert pod["securityContext"]["runAsNonRoot"]
        for container in pod["containers"]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["limits"]["memory"]


def test_the_head_alone_may_ask_kubernetes() -> None:
    """The service account gives no token, where the pod does not ask for one."""
    assert _named("ServiceAccount", "raycls")["automountServiceAccountToken"] is False
    assert sum(pod.get("automountServiceAccountToken", False) for pod in _pods()) == 1
    head = _named("RayService", "raycls")["spec"]["rayClusterConfig"]["headGroupSpec"]
    assert head["template"]["spec"]["automountServiceAccountToken"] is True


def test_every_secret_and_setting_that_is_asked_for_is_told_how_to_make() -> None:
    text = "\n".join(file.read_text() for file in FOLDER.glob("*.yaml"))
    asked = set(re.findall(r"secretKeyRef: \{name: raycls, key: ([\w-]+)\}", text))
    asked |= set(re.findall(r"credentials: \{name: raycls, key: ([\w-]+)\}", text))
    told = set(re.findall(r"^#   ([\w-]+)=", (FOLDER / "kustomization.yaml").read_text(), re.M))
    assert asked - {"redis"} == told


def test_the_list_of_files_is_complete() -> None:
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert sorted([*listed, "kustomization.yaml"]) == sorted(file.name for file in FOLDER.iterdir())


def test_who_may_reach_ray_is_named() -> None:
    labels = {"app": "raycls"}
    policy = _named("NetworkPolicy", "ray")["spec"]
    assert policy["podSelector"]["matchLabels"] == labels
    cluster = _named("RayService", "raycls")["spec"]["rayClusterConfig"]
    groups = (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    assert all(labels.items() <= group["template"]["metadata"]["labels"].items() for group in groups)
    open_to_all = [rule for rule in policy["ingress"] if "from" not in rule]
    assert open_to_all == []
