"""`serve run serve_config.yaml` as plain Ray runs it, with and without a champion."""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests
from PIL import Image

from raycls import registry, tracking
from raycls.cluster.environment import free_port
from raycls.data.versions import open_dataset
from raycls.registry.versions import aliases_of_all
from raycls.serving.auth import digest
from raycls.training.filing import TrainingResult

TOKEN = "correct-horse-battery-staple"
CONFIG = Path(__file__).parents[2] / "serve_config.yaml"


@contextmanager
def _serve_run(folder: Path, home: Path) -> Iterator[tuple[subprocess.Popen[bytes], str, Path]]:
    """The process, its URL, and the file with all that it says. Stopped with Ctrl-C, which must end it."""
    port = free_port(8000)
    guarded = CONFIG.read_text().replace("threads: 1", f"threads: 1\n      token_sha256: {digest(TOKEN)}")
    (folder / "serve_config.yaml").write_text(guarded.replace("port: 8000", f"port: {port}"))
    said = folder / "said.txt"
    with said.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "ray.serve.scripts", "run", "serve_config.yaml"],
            cwd=folder,
            env=os.environ | {"RAYCLS_HOME": str(home), "RAY_ADDRESS": "local"},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process, f"http://127.0.0.1:{port}", said
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(timeout=60)


def _wait(condition: object, process: subprocess.Popen[bytes], said: Path) -> None:
    deadline = time.monotonic() + 120
    while not condition():  # type: ignore[operator]
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.5)


def _status(url: str) -> int | None:
    try:
        return requests.get(url, timeout=5).status_code
    except requests.RequestException:
        return None


def test_the_champion_answers_who_has_the_token(
    tmp_path: Path, digits_home: Path, trained: TrainingResult
) -> None:
    buffer = io.BytesIO()
    Image.fromarray(open_dataset("digits").images("test")[0]).save(buffer, format="PNG")
    champion = registry.resolve()  # of whichever model: stories before this one promote others
    with _serve_run(tmp_path, digits_home) as (process, url, said):
        _wait(lambda: _status(f"{url}/health") == 200, process, said)
        headers = {"Content-Type": "image/png"}
        for given in (None, f"Bearer {TOKEN}x"):
            refused = requests.post(
                f"{url}/predict", buffer.getvalue(), headers=headers | {"Authorization": given}, timeout=30
            )
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
            assert refused.json()["status"] == 401
        assert _status(f"{url}/metrics") == 401
        # Without HAProxy, the control plane's routes are below /control, and the model's own are not.
        for path in ("/models", f"/models/{champion.name}/history", "/models/nobody/versions/3", "/uploads"):
            sent = requests.get(f"{url}{path}", timeout=10, allow_redirects=False)
            assert (sent.status_code, sent.headers["Location"]) == (307, f"/control{path}")
        assert _status(f"{url}/models/{champion.name}/health") == 200
        assert _status(f"{url}/models/nobody/health") == 404
        headers["Authorization"] = f"Bearer {TOKEN}"
        answer = requests.post(f"{url}/predict", buffer.getvalue(), headers=headers, timeout=30)
        assert answer.status_code == 200
        assert answer.json()["model_version"] == champion.version
        page = requests.get(f"{url}/console/", timeout=30)
        assert page.status_code == 200
        assert url in page.text, "the page knows the server beside it, whatever its port"
        assert champion.reference in page.text


@pytest.mark.timeout(300)
def test_no_champion_is_one_clear_line_and_503_and_the_first_one_is_served(
    tmp_path: Path, digits_home: Path, trained: TrainingResult, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    shutil.copytree(digits_home, home, ignore=shutil.ignore_patterns("cluster*", "*.lock"))
    monkeypatch.setenv("RAYCLS_HOME", str(home))
    for name, versions in aliases_of_all().items():  # other stories leave champions too
        for _ in [number for number, aliases in versions.items() if registry.CHAMPION in aliases]:
            tracking.client().delete_registered_model_alias(name, registry.CHAMPION)
    with _serve_run(tmp_path, home) as (process, url, said):
        _wait(lambda: "no model is champion yet" in said.read_text(), process, said)
        (line,) = {line for line in said.read_text().splitlines() if "no model is champion yet" in line}
        assert re.search(r"`raycls promote [a-z0-9.-]+ \d+`", line)
        assert "Traceback" not in said.read_text()
        _wait(lambda: _status(f"{url}/predict") == 503, process, said)
        dashboard = re.search(r"127\.0\.0\.1:82\d\d", said.read_text())
        assert dashboard, said.read_text()
        done = subprocess.run(
            [sys.executable, "-m", "raycls", "promote", "digits", "1", "--address", f"http://{dashboard[0]}"],
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        _wait(lambda: _status(f"{url}/health") == 200, process, said)
        assert requests.get(f"{url}/health", timeout=10).json()["model"]["version"] == "1"
