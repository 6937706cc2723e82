"""The containers of deploy/kubernetes, each run by podman with the command, user and probes that its manifest has.

    for row in rows(podman, image): …

What KubeRay adds to a pod is added here: Ray's start command and token. There is no kubelet: this program asks the
probes, at the pod's address or inside the container.
"""

from __future__ import annotations

import hashlib
import secrets
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import yaml

from harness.container_images import RAYCLS, ROOT
from harness.podman import Podman, Row, row, until

FOLDER = ROOT / "deploy" / "kubernetes"
NETWORK, VOLUME = "raycls-pods", "raycls-pods"
SERVICE = "raycls-serve-svc"
START = (
    "ray start --head --block --disable-usage-stats --num-cpus=2 --dashboard-host=0.0.0.0 "
    "--dashboard-agent-listen-port=52365 --metrics-export-port=8080"
)


def manifest(file: str, kind: str) -> dict[str, Any]:
    documents = yaml.safe_load_all((FOLDER / file).read_text())
    found: dict[str, Any] = next(each for each in documents if each["kind"] == kind)
    return found


class Pod:
    """A container that runs. address: its own, in the network of the pods."""

    def __init__(self, podman: Podman, name: str):
        self._podman, self.name = podman, name
        self.address = podman.run(
            "podman",
            "inspect",
            name,
            "--format",
            f'{{{{(index .NetworkSettings.Networks "{NETWORK}").IPAddress}}}}',
        )

    def status(self, probe: dict[str, Any]) -> int:
        """Return the status of a probe by HTTP; 0 where nothing answers."""
        get = probe["httpGet"]
        headers = {each["name"]: each["value"] for each in get.get("httpHeaders", ())}
        try:
            url = f"http://{self.address}:{get['port']}{get['path']}"
            return requests.get(url, headers=headers, timeout=probe["timeoutSeconds"]).status_code
        except requests.RequestException:
            return 0

    def execute(self, *words: str, check: bool = True) -> str:
        return self._podman.run("podman", "exec", self.name, *words, check=check)


@contextmanager
def pod(podman: Podman, container: dict[str, Any], environment: dict[str, str], name: str) -> Iterator[Pod]:
    """Run the container of a manifest until the context ends."""
    words = ["--network", f"{NETWORK}:alias={name}", "--user", "10001", "--read-only", "--cap-drop", "ALL"]
    words += [
        "--security-opt",
        "no-new-privileges",
        "--tmpfs",
        "/tmp",
        "--shm-size",
        "2g",
        "-v",
        f"{VOLUME}:/data",
    ]
    for variable, value in environment.items():
        words += ["-e", f"{variable}={value}"]
    program, *others = container["command"]
    podman.run(
        "podman",
        "run",
        "-d",
        "--name",
        name,
        *words,
        "--entrypoint",
        program,
        RAYCLS,
        *others,
        *container["args"],
    )
    try:
        yield Pod(podman, name)
    finally:
        podman.run("podman", "rm", "--force", "-t", "30", name, check=False)


def rows(podman: Podman, image: Path) -> Iterator[Row]:
    """Yield what was seen."""
    podman.run("podman", "network", "rm", "--force", NETWORK, check=False)
    podman.run("podman", "volume", "rm", "--force", VOLUME, check=False)
    podman.run("podman", "network", "create", NETWORK)
    try:
        yield from _ray(podman, image)
        yield from _mlflow(podman)
    finally:
        podman.run("podman", "network", "rm", "--force", NETWORK, check=False)
        podman.run("podman", "volume", "rm", "--force", VOLUME, check=False)


def _ray(podman: Podman, image: Path) -> Iterator[Row]:
    service = manifest("rayservice.yaml", "RayService")["spec"]
    cluster = service["rayClusterConfig"]
    (head,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    alive = head["livenessProbe"]
    ready = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["readinessProbe"]
    token, rays = secrets.token_hex(16), secrets.token_hex(32)
    environment = {"KUBERAY_GEN_RAY_START_CMD": START, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": rays}
    with pod(podman, head, environment, SERVICE) as ray:
        until(lambda: ray.status(alive) == 200, "Ray's own probe")
        yield row(
            "a pod of Ray, nothing served: alive, ready",
            f"200, {ray.status(ready) or 'no answer'}",
            "200, not 200",
        )
        _serve(ray, service["serveConfigV2"], token, rays)
        until(lambda: ray.status(ready) == 503, "an application without a model")
        yield row(
            "served without a champion: alive, ready", f"{ray.status(alive)}, {ray.status(ready)}", "200, 503"
        )
        for words in (
            ("data", "prepare", "digits"),
            ("train", "digits", "--preset", "smoke", "--workers", "1"),
            ("promote", "digits", "1", "--address", "http://127.0.0.1:8265"),
        ):
            ray.execute("raycls-entrypoint", *words)
        until(lambda: ray.status(ready) == 200, "a model")
        yield row("with a champion: alive, ready", f"{ray.status(alive)}, {ray.status(ready)}", "200, 200")
        answers = [_asked(ray, image, each) for each in (token, "")]
        yield row("a prediction with the token, and without", f"{answers[0]}, {answers[1]}", "200, 401")
        admin = ray.execute("raycls-entrypoint", "tokens", "add", "nightly", "--role", "admin").split()[-1]
        (job,) = manifest("retrain.yaml", "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["spec"][
            "containers"
        ]
        began = podman.run(
            *(
                "podman",
                "run",
                "--rm",
                "--network",
                NETWORK,
                "--user",
                "10001",
                "--read-only",
                "-e",
                "MODEL=digits",
            ),
            *(
                "-e",
                f"TOKEN={admin}",
                "--entrypoint",
                job["command"][0],
                RAYCLS,
                *job["command"][1:],
                *job["args"],
            ),
        )
        yield row("the nightly job begins a retraining", "yes" if '"id"' in began else began[:80], "yes")


def _serve(ray: Pod, text: str, token: str, rays: str) -> None:
    """Send Serve what KubeRay's operator sends."""
    own = text.replace("0" * 64, hashlib.sha256(token.encode()).hexdigest())
    document = yaml.safe_load(own)
    answer = requests.put(
        f"http://{ray.address}:8265/api/serve/applications/",
        json=document,
        headers={"Authorization": f"Bearer {rays}"},
        timeout=120,
    )
    answer.raise_for_status()


def _asked(ray: Pod, image: Path, token: str) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return requests.post(
        f"http://{ray.address}:8000/predict", image.read_bytes(), headers=headers, timeout=30
    ).status_code


def _mlflow(podman: Podman) -> Iterator[Row]:
    (container,) = manifest("mlflow.yaml", "Deployment")["spec"]["template"]["spec"]["containers"]
    probe = container["readinessProbe"]["exec"]["command"]
    with pod(
        podman, container, {"MLFLOW_BACKEND_STORE_URI": "sqlite:////data/mlflow-pod.db"}, "mlflow"
    ) as mlflow:

        def answers() -> bool:
            done = subprocess.run(["podman", "exec", mlflow.name, *probe], capture_output=True, check=False)
            return done.returncode == 0

        until(answers, "MLflow's probe")
        yield row("MLflow's pod: its probe", "passes", "passes")
