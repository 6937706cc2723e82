"""Compare raycls with other servers for a PyTorch classifier: same weights, same images, one server at a time.

    for rows in compare(version, images, programs=Path("benchmarks/peers/serving"), rounds=3, seconds=3.0, …): ...

Each peer is a small program, written as its own documentation recommends. A peer that needs other package versions runs
in its own environment on top of raycls's. A round measures every server once, and each round begins with another
server, so that a slow phase of the machine does not always hit the same one. wrk sends the closed loops if it is
installed, otherwise raycls's own client. The own client sends the open loops.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

from harness import wrk
from harness.results_page import Row
from raycls import cluster, home, local_http, progress, registry
from raycls.benchmark import bound
from raycls.benchmark.images import read_images
from raycls.benchmark.load import Load, LoadGenerator
from raycls.benchmark.request_forms import FORMS
from raycls.cluster.environment import free_port
from raycls.cluster.processes import SessionLeader
from raycls.config import Engine
from raycls.engines.predictor import Predictor
from raycls.errors import BenchmarkError, ClusterError
from raycls.registry import ModelVersion
from raycls.serving.control import deploy
from raycls.serving.control.configuration import ServeConfiguration

CONNECTIONS = (1, 8, 32, 100)
SHARES = (0.5, 0.8)  # rates of the open loops, as shares of the server's own peak
COUNTS = (1, 2)  # replicas or workers
WARMUP_S, STARTUP_S, SETTLED_S = 1.0, 120.0, 60.0
CHECKED = 50  # images for which a server must give the reference's class
SAME = 0.96  # share of them that is enough for an engine that computes in bfloat16


@dataclass(frozen=True, kw_only=True)
class Server:
    """One server: raycls with an engine, or a peer, whose `program` is the stem of its file.

    needs is the package that a peer's own environment has in addition to raycls's.
    """

    name: str
    engine: Engine | None = None
    program: str | None = None
    form: str = "raw"
    path: str = "/predict"
    needs: str | None = None


RAYCLS, REFERENCE = "raycls", "raycls, engine reference"
PEERS = (
    Server(name="FastAPI + uvicorn", program="fastapi_server"),
    Server(name="LitServe", program="litserve_server", form="base64", needs="litserve==0.2.19"),
    Server(name="BentoML", program="bentoml_server", form="multipart", needs="bentoml==1.4.39"),
    Server(name="mlflow models serve", program="mlflow_server", form="inputs", path="/invocations"),
    Server(name="Ray Serve as it comes", program="ray_serve_server"),
)


def compare(
    version: ModelVersion,
    images: Path,
    *,
    programs: Path,
    config: Path,
    peers: list[str],
    rounds: int,
    seconds: float,
) -> Iterator[list[Row]]:
    """Measure the servers; yield all rows so far after each round.

    A row is {"round", "server", "count", "connections" or ("share" and "rate"), …}, or the machine's bound in that
    round. images is a folder of encoded images. count is the number of replicas or workers. Raises ClusterError if a
    cluster is running, BenchmarkError if a server does not start or does not classify as the model does.
    """
    if running := cluster.status():
        raise ClusterError(
            f"a cluster is running and would disturb the measurement (process {running.pid}): stop it with "
            "`raycls down`"
        )
    directory = registry.checkpoint(version)
    engine = registry.engine_to_serve(version)
    servers = [Server(name=RAYCLS, engine=engine), Server(name=REFERENCE, engine="reference")]
    servers += [peer for peer in PEERS if peer.name in peers]
    pythons = {server: _python(server) for server in servers}
    expected = _expected(directory, images)
    with progress.bar("comparing servers", total=rounds * (1 + len(servers) * len(COUNTS))) as bar:
        rows: list[Row] = []
        for turn in range(rounds):
            bar.describe(f"round {turn + 1} of {rounds}: the bound")
            reached = {
                "images_per_s": bound.images_per_s(directory, images, engine, seconds=seconds),
                "one_ms": bound.one_image_ms(directory, images, engine),
            }
            rows.append({"round": turn, "bound": "bare processes", **reached})
            bar.advance(1)
            for server in servers[turn % len(servers) :] + servers[: turn % len(servers)]:
                for count in COUNTS:
                    bar.describe(f"round {turn + 1} of {rounds}: {server.name}, {count}")
                    serving = (
                        raycls_server(version, server.engine, config, count)
                        if server.engine
                        else started(server, pythons[server], programs, directory, count)
                    )
                    with serving as url:
                        check(server, url, images, expected)
                        loads = _loads(server, url, images, seconds)
                    rows += [{"round": turn, "server": server.name, "count": count, **row} for row in loads]
                    bar.advance(1)
            yield rows


def _expected(directory: Path, images: Path) -> list[str]:
    reference = Predictor.load(directory, engine="reference")
    encoded = [image.body for image in read_images(images)[:CHECKED]]
    return [prediction.class_name for prediction in reference.predict(encoded)]


def check(server: Server, url: str, images: Path, expected: list[str]) -> None:
    """Raise BenchmarkError if the server does not give the first images their expected classes."""
    form, correct = FORMS[server.form], 0
    for image, wanted in zip(read_images(images)[:CHECKED], expected, strict=True):
        request = form.wrap(image)
        answer = local_http.request(
            "POST", url, data=request.body, headers={"Content-Type": request.content_type}, timeout=30
        )
        if not answer.ok:
            raise BenchmarkError(f"{server.name} answers {answer.status_code}: {answer.text[:200]}")
        correct += form.named(answer.json()) == wanted
    if correct < (SAME if server.engine else 1) * len(expected):
        raise BenchmarkError(
            f"{server.name} gives only {correct} of {len(expected)} images the class that the model gives"
        )


def _loads(server: Server, url: str, images: Path, seconds: float) -> list[Row]:
    rows: list[Row] = []
    with ExitStack() as stack:
        generator = stack.enter_context(LoadGenerator(url, images, form=server.form))
        if wrk.installed():
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="raycls-wrk-")))
            wrk.write(read_images(images), FORMS[server.form], folder)
            wrk.closed(url, folder, connections=max(CONNECTIONS), seconds=WARMUP_S)
            for connections in CONNECTIONS:
                settle(server, url, images)
                loop = wrk.closed(
                    url, folder, connections=connections, seconds=seconds, warmup_seconds=WARMUP_S
                )
                rows.append({"connections": connections, "client": "wrk", **loop._asdict()})
        else:
            for connections in CONNECTIONS:
                rows.append(
                    {"connections": connections} | _own(generator, connections=connections, seconds=seconds)
                )
        # The own client sends the open loops, so it also measures their peak: it uses more CPU time than wrk. A slow
        # server may answer no counted request of a hundred connections; then fewer connections are tried.
        peaks = (
            _own(generator, connections=connections, seconds=seconds)["requests_per_s"]
            for connections in reversed(CONNECTIONS)
        )
        peak = next(filter(None, peaks), None)
        if peak is None:
            raise BenchmarkError(f"{server.name} answers no request within {seconds:g} s")
        for share in SHARES:
            offered = {"share": share, "rate": share * peak}
            rows.append(offered | _own(generator, rate=share * peak, seconds=seconds))
    return rows


def settle(server: Server, url: str, images: Path) -> None:
    """Wait until a slow server has finished the requests that wrk left unanswered.

    Raises BenchmarkError if the server answers 429 for longer than SETTLED_S.
    """
    request, end = FORMS[server.form].wrap(read_images(images)[0]), time.monotonic() + SETTLED_S
    headers = {"Content-Type": request.content_type}
    for _ in range(2 * max(COUNTS)):  # enough requests to reach each worker behind its waiting requests
        while requests.post(url, request.body, headers=headers, timeout=60).status_code == 429:
            if time.monotonic() > end:
                raise BenchmarkError(f"{server.name} answers 429 for {SETTLED_S:g} s without any load")
            time.sleep(0.05)


def _own(generator: LoadGenerator, *, seconds: float, **kind: float) -> Row:
    sample = generator.measure(Load.model_validate({**kind, "seconds": seconds, "warmup_seconds": WARMUP_S}))
    return {
        "client": "our own client",
        "requests_per_s": sample.requests_per_s,
        "p50_ms": sample.p50_ms,
        "p99_ms": sample.p99_ms,
        "failed": sum(sample.errors.values()),
        "errors": sample.errors,
    }


@contextmanager
def raycls_server(version: ModelVersion, engine: Engine, config: Path, count: int) -> Iterator[str]:
    """Serve raycls with `count` replicas on its own cluster and yield the URL of /predict."""
    document = ServeConfiguration.read(config).pinned(
        model=version.reference, replicas=count, port=free_port(8000)
    )
    document.arguments["engine"] = engine
    served = deploy.up(document, detach=True, guarded=False)
    try:
        yield f"{served.url}/predict"
    finally:
        deploy.down()


@contextmanager
def started(server: Server, python: Path, programs: Path, directory: Path, count: int) -> Iterator[str]:
    """Start a peer with `count` workers, yield its URL, and stop it afterwards. Raises BenchmarkError."""
    port = free_port(8000)
    command = [str(python), f"{server.program}.py", str(directory), str(port), str(count)]
    # RAY* variables may configure raycls's Ray. TMPDIR is the peer's own, so that its files are removed with it.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY")}
    with tempfile.TemporaryDirectory(prefix="peer-") as folder, tempfile.NamedTemporaryFile() as log:
        process = subprocess.Popen(
            command,
            cwd=programs,
            env=environment | {"TMPDIR": folder},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        leader = SessionLeader.of(process.pid)
        try:
            url = f"http://127.0.0.1:{port}{server.path}"
            _await(
                process,
                server,
                url,
                Path(log.name),
                lambda: len(list(Path(folder).glob("loaded-*"))) >= count,
            )
            yield url
        finally:
            leader.end()
            process.wait()


def _await(
    started: subprocess.Popen[bytes], server: Server, url: str, log: Path, whole: Callable[[], bool]
) -> None:
    """Wait until every worker has loaded the model and one of them answers an empty request.

    A status of 404 or 503 comes from a proxy and not from a worker. Raises BenchmarkError after STARTUP_S.
    """
    deadline = time.monotonic() + STARTUP_S
    while time.monotonic() < deadline and started.poll() is None:
        try:
            if whole() and local_http.request("POST", url, data=b"", timeout=5).status_code not in (404, 503):
                return
        except requests.RequestException:
            pass
        time.sleep(0.5)
    problem = "ended" if started.poll() is not None else f"did not answer within {STARTUP_S:.0f} s"
    last = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
    raise BenchmarkError(f"{server.name} {problem}; the last lines of its log:\n{last}")


def _python(server: Server) -> Path:
    """Return the interpreter for a peer: this one, or that of the peer's environment, which is created if necessary."""
    if server.needs is None:
        return Path(sys.executable)
    folder = home.home() / "cache" / "peers" / server.needs
    python = folder / "bin" / "python"
    if not (folder / "whole").exists():
        with progress.bar(f"installing {server.needs} for {server.name}"):
            uv = str(Path(sys.executable).with_name("uv"))
            _install([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
            _install([uv, "pip", "install", "--quiet", "--python", str(python), server.needs])
            (folder / "whole").touch()
    (own,) = folder.glob("lib/python*/site-packages")
    # raycls's packages come after the peer's own, with their .pth files. Written each time: raycls may have moved.
    (own / "ours.pth").write_text(f"import site; site.addsitedir({sysconfig.get_path('purelib')!r})\n")
    return python


def _install(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise BenchmarkError(f"{command[0]} is not installed: run `make setup`") from None
    if done.returncode:
        raise BenchmarkError(f"{' '.join(command[-2:])} failed: {done.stderr.strip().splitlines()[-1]}")
