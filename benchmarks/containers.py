"""Build and run deploy/Dockerfile and deploy/compose.yaml here, without Docker and without an image registry.

    python benchmarks/containers.py                # as root, with buildah, podman and podman-compose
    python benchmarks/containers.py --keep         # leave the composition up, to look at it

The container: its size, the seconds from `podman run` to its first prediction, and to its end. The composition: is TLS
ended, does everything answer, does a study run in PostgreSQL, and do models survive down and up. The pods of
deploy/kubernetes: do their commands run as they stand, and do their probes tell alive from ready.

The results go to OUTPUT/containers/containers.json and OUTPUT/containers.md (default: benchmarks/results). The last
line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import container_composition, container_images, container_pods, results_page
from harness.container_images import RAYCLS
from harness.podman import OPTIONS, VOLUME, Podman, Row, asked, picture, row, spread, until
from harness.results_page import Document, Section, table

from raycls import command, progress
from raycls.cluster.environment import free_port

HERE = Path(__file__).parent
NAME, STARTS = "raycls-benchmark", 5


def alone(podman: Podman, image: Path) -> Iterator[Row]:
    """Yield the rows of the container by itself."""
    podman.run("podman", "volume", "rm", "--force", VOLUME, check=False)
    times: list[tuple[float, float]] = []
    with progress.bar("training a model in the container"):
        for words in (
            ("data", "prepare", "digits"),
            ("train", "digits", "--preset", "smoke"),
            ("promote", "digits", "1"),
        ):
            podman.raycls(*words)
    with progress.bar("starting the container", STARTS) as bar:
        for _ in range(STARTS):
            times.append(_one_start(podman, image))
            bar.advance()
    starts, stops = zip(*times, strict=True)
    podman.run("podman", "volume", "rm", VOLUME)
    yield {"what": "from `podman run` to the first prediction, s", "goal": "≤ 15", **spread(starts)}
    yield {"what": "from `podman stop` to the end, s", "goal": "≤ 60", **spread(stops)}


def _one_start(podman: Podman, image: Path) -> tuple[float, float]:
    """Return the seconds to the first prediction, and those to the end."""
    token, port = secrets.token_hex(24), free_port(8930)
    began = time.monotonic()
    podman.run(
        *("podman", "run", "-d", "--name", NAME, *OPTIONS, "-e", f"RAYCLS_TOKEN={token}"),
        *("-p", f"127.0.0.1:{port}:8000", RAYCLS),
    )
    try:
        until(lambda: asked(f"http://127.0.0.1:{port}/predict", token, image), "a first prediction")
        start = time.monotonic() - began
        podman.run("podman", "healthcheck", "run", NAME)
        began = time.monotonic()
        podman.run("podman", "stop", "-t", "60", NAME)
        return start, time.monotonic() - began
    finally:
        podman.run("podman", "rm", "--force", NAME, check=False)


def _section(documents: dict[str, Document]) -> str:
    (document,) = documents.values()
    lines = [(line["what"], _shown(line), line["goal"]) for line in document["rows"]]
    return f"{document['date']} UTC.\n\n{table(('', 'measured', 'goal'), lines)}"


def _shown(line: dict[str, Any]) -> str:
    if "low" in line:
        return f"**{line['value']:.1f}** ({line['low']:.1f} to {line['high']:.1f}, n = {line['n']})"
    return f"**{line['value']:.1f}**" if isinstance(line["value"], float) else f"**{line['value']}**"


HEAD = """\
# Containers

`deploy/Dockerfile` built with buildah and run with podman: without rights, with a root file system that cannot be
written, and a network of its own. `deploy/compose.yaml` run with podman-compose on stand-ins of the same command lines:
Debian's Caddy, PostgreSQL and Prometheus, and moto in place of SeaweedFS, which keeps its bucket in memory. Grafana
could not be had.

An image whose layers are there from a run before is built in a minute, and in seven minutes where they are not. A cold
start is Ray's start and the imports of seven processes, on two cores: `raycls up` takes as long outside a container.
Without the control plane and the console it took 2.5 s less (n = 4, 19.6 against 22.2 s, on a slower hour).
"""
SECTIONS: dict[str, Section] = {"containers": _section}


def main(arguments: list[str]) -> None:
    """Build, run, write the results and print them. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--keep", action="store_true", help="leave the composition up")
    parser.add_argument(
        "--work", type=Path, default=Path("/var/tmp/raycls-containers"), help="folder for what is built"
    )
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder for the results")
    options = parser.parse_args(arguments)
    images, seconds = container_images.built(options.work)
    podman = Podman(container_images.environment(options.work) | images | {"PORT": str(free_port(8443))})
    size = float(podman.run("podman", "image", "inspect", RAYCLS, "--format", "{{.Size}}")) / 1e9
    rows = [
        row("size of the image, GB", size, "as small as CUDA allows"),
        row("time to build it, s", seconds, "–"),
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        image = picture(folder)
        rows += alone(podman, image)
        rows += container_pods.rows(podman, image)
        with container_composition.composed(podman):
            rows += container_composition.together(podman, folder, image)
            if options.keep:
                input(f"the composition is at https://localhost:{podman.env['PORT']}; Enter takes it down")
    document = results_page.document("containers", {}, rows)
    file = results_page.keep(options.output, "containers", document)
    page = results_page.write(options.output, "containers", HEAD, SECTIONS)
    progress.say(f"wrote {file} and {page}")
    print(json.dumps(document))


if __name__ == "__main__":
    command.run(main)
