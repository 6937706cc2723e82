"""Two hosts with addresses and homes of their own, which share Ray, a bucket and an MLflow server and no files."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from harness import hosts
from harness.hosts import Host

from raycls.cluster.environment import ensure_token, environment, token
from tests.predict import encoded

pytestmark = [
    pytest.mark.skipif(bool(hosts.missing()), reason=hosts.missing()),
    pytest.mark.timeout(600),
]

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
CONFIG = ROOT / "deploy" / "serve_config.yaml"
DASHBOARD = "http://127.0.0.1:8265"
BUCKET = "s3://test:test@raycls/store"
MLFLOW_PORT, S3_PORT, RAY_PORT = 5000, 9000, 6379
RATE = 200  # requests/s
SECONDS = 20
SEND = f"""
import sys
from pathlib import Path
from raycls.benchmark.load import Load, LoadGenerator
with LoadGenerator(sys.argv[1], Path(sys.argv[2]), allow_remote=True) as generator:
    print(generator.measure(Load(rate={RATE}, seconds={SECONDS})).model_dump_json())
"""
INSIDE = 20  # requests that may be on their way to a node when it dies, or a moment later


@dataclass
class Cluster:
    """A head and a node. token: of the role `predict`."""

    head: Host
    node: Host
    token: str

    def raycls(self, *words: str, host: Host | None = None) -> str:
        return (host or self.head).run([str(BIN / "raycls"), *words], timeout=240).stdout

    @property
    def pictures(self) -> Path:
        return self.head.folder / "pictures"

    def predict(
        self, asked_from: Host, address: str, *, token: str | None = None
    ) -> tuple[int, dict[str, Any]]:
        """Ask for one prediction; return the status and the answer. token: another one than the cluster's."""
        secret = self.token if token is None else token
        done = asked_from.run(
            [
                *("curl", "-s", "-m", "10", "-w", "\n%{http_code}", "-H", f"Authorization: Bearer {secret}"),
                *("-F", f"file=@{asked_from.folder / 'picture.png'}", f"http://{address}:8000/predict"),
            ],
            check=False,
        )
        body, _, status = done.stdout.rpartition("\n")
        return int(status or 0), json.loads(body) if body.startswith("{") else {}

    def nodes_with_a_replica(self) -> set[str]:
        """Return the addresses of the nodes on which a classifier runs."""
        asked = [
            "curl",
            "-s",
            "-H",
            f"Authorization: Bearer {token()}",
            f"{DASHBOARD}/api/serve/applications/",
        ]
        found = json.loads(self.head.run(asked).stdout)["applications"]["raycls"]["deployments"]["Classifier"]
        return {replica["node_ip"] for replica in found["replicas"] if replica["state"] == "RUNNING"}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    ensure_token()
    with hosts.hosts(2) as (head, node):
        common = {
            **environment(),
            "OMP_NUM_THREADS": "1",
            "MLFLOW_TRACKING_URI": f"http://{head.address}:{MLFLOW_PORT}",
            "RAYCLS_STORAGE": f"{BUCKET}?endpoint_override={head.address}:{S3_PORT}&scheme=http"
            "&allow_bucket_creation=true&region=us-east-1",
            "RAY_ADDRESS": f"{head.address}:{RAY_PORT}",
        }
        for host in (head, node):
            host.environment = common | {"RAYCLS_HOME": str(host.folder / "home")}
        _services(head)
        ray = [str(BIN / "ray"), "start", "--disable-usage-stats", "--num-cpus=2"]
        head.run([*ray, "--head", f"--port={RAY_PORT}", f"--node-ip-address={head.address}"])
        node.run([*ray, f"--address={head.address}:{RAY_PORT}", f"--node-ip-address={node.address}"])
        made = Cluster(head, node, token="")
        _serve(made)
        yield made


def _serve(cluster: Cluster) -> None:
    """Train a model on the head, and serve it on both hosts."""
    for host in (cluster.head, cluster.node):
        (host.folder / "picture.png").write_bytes(encoded())
    (cluster.pictures / "0").mkdir(parents=True)
    for seed in range(8):
        (cluster.pictures / "0" / f"{seed}.png").write_bytes(encoded(seed))
    cluster.raycls("data", "prepare", "digits")
    cluster.raycls(
        "train", "digits", "--preset", "smoke", "--workers", "2"
    )  # one on each host, which gets the data
    cluster.raycls("promote", "digits", "1")
    cluster.token = cluster.raycls("tokens", "add", "camera", "--role", "predict").split()[-1]
    cluster.head.run([str(BIN / "serve"), "deploy", "--address", DASHBOARD, str(CONFIG)])
    for host in (cluster.head, cluster.node):
        _wait(cluster, host)


def _services(head: Host) -> None:
    """Start the bucket and MLflow's server on the head, and wait until both answer."""
    head.start([str(BIN / "moto_server"), "-H", head.address, "-p", str(S3_PORT)], head.folder / "moto.log")
    head.start(
        [
            *(str(BIN / "mlflow"), "server", "--host", head.address, "--port", str(MLFLOW_PORT)),
            *("--workers", "1", "--allowed-hosts", f"{head.address}:{MLFLOW_PORT}"),
            *("--backend-store-uri", f"sqlite:///{head.folder}/mlflow.db"),
            *("--artifacts-destination", str(head.folder / "artifacts")),
        ],
        head.folder / "mlflow.log",
    )
    deadline = time.monotonic() + 60
    for url in (f"http://{head.address}:{S3_PORT}", f"http://{head.address}:{MLFLOW_PORT}/health"):
        while head.run(["curl", "-sf", "-m", "2", "-o", "/dev/null", url], check=False).returncode:
            assert time.monotonic() < deadline, f"{url} does not answer"
            time.sleep(0.3)


def test_each_host_answers_for_both_and_one_dies(cluster: Cluster) -> None:
    _both_answer(cluster)
    # The replicas leave no host whole, and this training finds room all the same.
    cluster.raycls("train", "digits", "--preset", "smoke", "--workers", "1")
    _one_dies(cluster)


def _both_answer(cluster: Cluster) -> None:
    deadline = time.monotonic() + 60
    while cluster.nodes_with_a_replica() != {cluster.head.address, cluster.node.address}:
        assert time.monotonic() < deadline, cluster.nodes_with_a_replica()
        time.sleep(0.5)
    for asked_from in (cluster.head, cluster.node):
        for host in (cluster.head, cluster.node):
            assert cluster.predict(asked_from, host.address, token="")[0] == 401
            status, answer = cluster.predict(asked_from, host.address)
            assert (status, answer["model_version"]) == (200, "1")
    found = cluster.raycls("doctor", "--config", str(CONFIG))
    assert "the server listens on 0.0.0.0\n" in found


def _one_dies(cluster: Cluster) -> None:
    """What was inside the node is lost, and no more: the head's HAProxy is asked, half of the replicas are there."""
    answers = cluster.head.folder / "answers.json"
    sending = cluster.head.start(
        [sys.executable, "-c", SEND, f"http://{cluster.head.address}:8000/predict", str(cluster.pictures)],
        answers,
        env={"RAYCLS_TOKEN": cluster.token, "RAYCLS_UNENCRYPTED": "1"},
    )
    time.sleep(SECONDS / 2)
    cluster.node.kill()
    assert sending.wait(timeout=120) == 0, answers.read_text()
    sample = json.loads(answers.read_text().splitlines()[-1])
    assert sum(sample["errors"].values()) <= INSIDE, sample["errors"]
    assert sample["answered"] > 0.95 * RATE * SECONDS


def _wait(cluster: Cluster, host: Host) -> None:
    deadline = time.monotonic() + 120
    while cluster.predict(host, host.address)[0] != 200:
        assert time.monotonic() < deadline, f"{host.address} does not answer"
        time.sleep(0.5)
