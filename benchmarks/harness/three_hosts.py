"""A cluster on hosts of its own: Ray on a head and two nodes, and beside it all that outlives it.

    with cluster() as found:
        found.serve(replicas=4)
        with found.load(20) as answers: found.nodes[1].kill()

The hosts are namespaces (benchmarks/harness/hosts.py): each has an address, a /tmp and a RAYCLS_HOME, and they share
none of their files. On a fourth one are the client and what outlives a cluster: PostgreSQL, for MLflow and the studies,
Redis, for Ray's head, and S3 (moto).
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from harness.cluster_services import MLFLOW_PORT, REDIS_PORT, S3_PORT, start_services
from harness.hosts import Host, hosts
from raycls.cluster.environment import ensure_token, environment, token
from raycls.errors import BenchmarkError

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
RAY_PORT, DASHBOARD = 6379, "http://127.0.0.1:8265"
RATE = 200.0  # requests/s
SEND = f"""
import json, sys, time
from pathlib import Path
from raycls.benchmark.load import Load, LoadGenerator
with LoadGenerator(sys.argv[1], Path(sys.argv[2]), allow_remote=True) as generator:
    for _ in range(int(sys.argv[3])):
        began = time.time()
        sample = generator.measure(Load(rate={RATE}, seconds=1, warmup_seconds=0))
        second = dict(began=began, ended=time.time(), answered=sample.answered, errors=sample.errors)
        print(json.dumps(second), flush=True)
"""

CLOSED = """
import json, sys
from pathlib import Path
from raycls.benchmark.load import Load, LoadGenerator
with LoadGenerator(sys.argv[1], Path(sys.argv[2]), allow_remote=True) as generator:
    sample = generator.measure(Load(connections=int(sys.argv[3]), seconds=float(sys.argv[4]), warmup_seconds=2))
    print(sample.model_dump_json())
"""

Second = dict[str, Any]  # of load: began, ended (seconds since 1970), answered, errors by kind


@dataclass
class Cluster:
    """The hosts. nodes: the two that serve; token: of the role `predict`."""

    services: Host
    head: Host
    nodes: list[Host]
    token: str = ""

    def raycls(self, *words: str, host: Host | None = None, timeout: float = 300) -> str:
        return (host or self.head).run([str(BIN / "raycls"), *words], timeout=timeout).stdout

    def start_head(self) -> None:
        self._ray(self.head, "--head", f"--port={RAY_PORT}", "--num-cpus=0", env=self._with_redis())

    def start_node(self, node: Host, *, core: int | None = None) -> None:
        """Start Ray on a node, which has two cores; core: only this one of the machine's."""
        words = [f"--address={self.head.address}:{RAY_PORT}", f"--num-cpus={2 if core is None else 1}"]
        self._ray(node, *words, bound=[] if core is None else ["taskset", "-c", str(core)])

    def _ray(self, host: Host, *words: str, env: Mapping[str, str] = {}, bound: Sequence[str] = ()) -> None:
        ray = [str(BIN / "ray"), "start", "--disable-usage-stats", f"--node-ip-address={host.address}"]
        host.run([*bound, *ray, *words], env=env)

    def _with_redis(self) -> dict[str, str]:
        return {
            "RAY_REDIS_ADDRESS": f"{self.services.address}:{REDIS_PORT}",
            "RAY_external_storage_namespace": "bench",
        }

    def kill_head(self) -> None:
        """End Ray's processes of the head at once, as where its machine fails."""
        self.head.kill()
        self.head.run(
            ["rm", "-f", "/tmp/ray/ray_current_cluster"]
        )  # by which Ray believes that it still runs

    def serve(
        self, arguments: Mapping[str, Any] = {}, *, on_a_node: int | None = None, **autoscaling: int
    ) -> None:
        """Serve the champion as deploy/serve_config.yaml does, with other numbers of replicas, from each node.

        arguments: more of them for the application. on_a_node: the most replicas there. Nodes that have no replica
        answer nothing.
        """
        document = yaml.safe_load((ROOT / "deploy" / "serve_config.yaml").read_text())
        deployment = document["applications"][0]["deployments"][0]
        deployment["autoscaling_config"] |= autoscaling
        if on_a_node:
            deployment["max_replicas_per_node"] = on_a_node
        # A new version is slow while its machine starts other things: nobody but the benchmark shall take it back.
        document["applications"][1]["args"]["watch_s"] = 0
        document["applications"][0]["args"] |= {"model": "digits", **arguments}
        path = self.head.folder / "serve_config.yaml"
        path.write_text(yaml.safe_dump(document))
        self.head.run([str(BIN / "serve"), "deploy", "--address", DASHBOARD, str(path)])
        few = autoscaling["min_replicas"] < len(self.nodes)
        asked: Callable[[Iterable[bool]], bool] = any if few else all
        self.until(lambda: asked(self.predict(node) == 200 for node in self.nodes), "the nodes answer")

    def shutdown(self) -> None:
        """End what is served."""
        self.head.run([str(BIN / "serve"), "shutdown", "--address", DASHBOARD, "--yes"])

    def ask(self, method: str, path: str, token: str, *more: str) -> Any:
        """Return the JSON that the first node's server answers to a request. Raises BenchmarkError for an error."""
        command = ["curl", "-s", "-m", "120", "-X", method, "-H", f"Authorization: Bearer {token}", *more]
        answer = self.services.run([*command, f"http://{self.nodes[0].address}:8000{path}"]).stdout
        try:
            found = json.loads(answer)
        except ValueError:
            raise BenchmarkError(f"{method} {path}: {answer[:300]}") from None
        if isinstance(found, dict) and found.get("type") == "about:blank":
            raise BenchmarkError(f"{method} {path}: {answer[:300]}")
        return found

    def rate(self, to: Host, *, connections: int, seconds: int) -> float:
        """Return the requests/s that a host's address answers to so many connections, of which none may fail."""
        command = [sys.executable, "-c", CLOSED, f"http://{to.address}:8000/predict", str(self.pictures)]
        env = {"RAYCLS_TOKEN": self.token, "RAYCLS_UNENCRYPTED": "1"}
        done = self.services.run([*command, str(connections), str(seconds)], env=env, timeout=seconds + 60)
        sample = json.loads(done.stdout.splitlines()[-1])
        if sample["errors"]:
            raise BenchmarkError(f"the measurement failed: {sample['errors']}")
        return float(sample["requests_per_s"])

    def predict(self, host: Host) -> int:
        """Return the status of one prediction by way of a host's address; 0 where nothing answers."""
        command = ["curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}"]
        command += [
            "-H",
            f"Authorization: Bearer {self.token}",
            "-F",
            f"file=@{self.pictures / '0' / '0.png'}",
        ]
        return int(
            self.services.run([*command, f"http://{host.address}:8000/predict"], check=False).stdout or 0
        )

    @property
    def pictures(self) -> Path:
        return self.services.folder / "pictures"

    def replicas(self, *, also_ending: bool = False) -> dict[str, int]:
        """Return how many replicas run on each node, by its address, as Serve says.

        also_ending: with those that take no more requests and answer the last ones.
        """
        command = [
            "curl",
            "-s",
            "-m",
            "5",
            "-H",
            f"Authorization: Bearer {token()}",
            f"{DASHBOARD}/api/serve/applications/",
        ]
        try:
            found = json.loads(self.head.run(command, check=False).stdout)["applications"]["raycls"]
            replicas = found["deployments"]["Classifier"]["replicas"]
        except (ValueError, KeyError):  # it is being changed
            return {}
        some = (each for each in replicas if also_ending or each["state"] == "RUNNING")
        # One that has just been asked for is on no node yet.
        return dict(Counter(address for each in some if (address := each.get("node_ip"))))

    def node_id(self, node: Host) -> str:
        """Return Ray's name of a node."""
        script = (
            "import ray, sys; ray.init('auto', log_to_driver=False); "
            "print(*[n['NodeID'] for n in ray.nodes() if n['Alive'] and n['NodeManagerAddress'] == sys.argv[1]])"
        )
        return self.head.run([sys.executable, "-c", script, node.address]).stdout.split()[-1]

    def until(self, found: Callable[[], Any], what: str, longest: float = 180) -> float:
        """Wait for a function's answer and return the seconds that took. Raises BenchmarkError."""
        began = time.monotonic()
        while not found():
            if time.monotonic() - began > longest:
                raise BenchmarkError(f"{what}: not within {longest} s; replicas: {self.replicas()}")
            time.sleep(0.3)
        return time.monotonic() - began

    @contextmanager
    def load(self, seconds: int, to: Host) -> Iterator[list[Second]]:
        """Send RATE requests/s to a host's address while the body runs and until the seconds are over.

        The list is filled at the end. Raises BenchmarkError where the client fails.
        """
        answers: list[Second] = []
        log = self.services.folder / f"answers-{time.monotonic_ns()}"
        sending = self.services.start(
            [
                sys.executable,
                "-c",
                SEND,
                f"http://{to.address}:8000/predict",
                str(self.pictures),
                str(seconds),
            ],
            log,
            env={"RAYCLS_TOKEN": self.token, "RAYCLS_UNENCRYPTED": "1"},
        )
        try:
            yield answers
            if sending.wait(timeout=seconds * 12 + 60):
                raise BenchmarkError(f"the client failed: {log.read_text()[-1000:]}")
        finally:
            if sending.poll() is None:
                sending.kill()
        answers += [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


@contextmanager
def cluster() -> Iterator[Cluster]:
    """Yield a cluster with Ray on three hosts, a dataset, and a champion. At the end, all of it is gone."""
    ensure_token()
    with hosts(4) as (services, head, *nodes):
        found = Cluster(services, head, nodes)
        common = {
            **environment(),
            "OMP_NUM_THREADS": "1",
            "MLFLOW_TRACKING_URI": f"http://{services.address}:{MLFLOW_PORT}",
            "RAYCLS_STUDIES": f"postgresql+psycopg://raycls@{services.address}/studies",
            "RAYCLS_STORAGE": f"s3://test:test@raycls/store?endpoint_override={services.address}:{S3_PORT}&scheme=http"
            "&allow_bucket_creation=true&region=us-east-1",
            "RAY_ADDRESS": f"{head.address}:{RAY_PORT}",
        }
        for host in (services, head, *nodes):
            host.environment = common | {"RAYCLS_HOME": str(host.folder / "home")}
        start_services(found.services)
        found.start_head()
        for node in nodes:
            found.start_node(node)
        (found.pictures / "0").mkdir(parents=True)
        for shade in range(8):
            Image.linear_gradient("L").resize((32, 32)).point(
                lambda value, shade=shade: value // (shade + 1)
            ).save(found.pictures / "0" / f"{shade}.png")
        yield found
