"""raycls as a user has it: a command line, and a server at an address. Stories that go through both use it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import requests
from PIL import Image

from raycls.cluster.environment import free_port

CONFIG = Path(__file__).parents[1] / "serve_config.yaml"


class Product:
    """raycls as a user has it: a command line, and a server at an address."""

    def __init__(self, home: Path, folder: Path):
        self.port = free_port(8200)
        self.url = f"http://127.0.0.1:{self.port}"
        self.home, self._folder = home, folder
        # Without the watch after a promotion: dark pictures cost confidence, and it would go back before a person does.
        small_windows = CONFIG.read_text().replace(
            "max_upload_bytes:", "drift_images: 150\n      watch_s: 0\n      max_upload_bytes:"
        )
        (folder / "serve_config.yaml").write_text(small_windows.replace("port: 8000", f"port: {self.port}"))

        self._environment = os.environ | {"RAYCLS_HOME": str(self.home), "OMP_NUM_THREADS": "1"}

    def raycls(self, *words: str) -> str:
        """Run a command and return what it prints on stdout."""
        done = subprocess.run(
            [sys.executable, "-m", "raycls", *words],
            cwd=self._folder,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    @contextmanager
    def began(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        """Begin a command and yield its process; interrupt it where it has not ended by itself."""
        with (self._folder / "began.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "raycls", *words],
                cwd=self._folder,
                env=self._environment,
                stdout=log,
                stderr=log,
            )
            try:
                yield process
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGINT)
                    process.wait(60)

    def kill(self, name: str) -> None:
        """Kill the processes of this server whose name begins so."""
        head = psutil.Process(json.loads((self.home / "cluster.json").read_text())["pid"])
        named = [
            each
            for each in head.children(recursive=True)
            if each.cmdline()[:1] and each.cmdline()[0].startswith(name)
        ]
        assert named
        for process in named:
            process.kill()

    def ask(self, method: str, path: str, token: str, **options: Any) -> Any:
        """Send a request with a token and return the JSON of the answer, which must be a good one."""
        headers = {"Authorization": f"Bearer {token}", **options.pop("headers", {})}
        answer = requests.request(method, self.url + path, headers=headers, timeout=120, **options)
        assert answer.ok, answer.text
        return answer.json()

    def predictions(self, pictures: np.ndarray) -> list[dict[str, Any]]:
        """Return what /predict answers, for each picture as another client."""
        found = []
        for number, each in enumerate(pictures):
            headers = {"Content-Type": "image/png", "X-Client-Id": str(number)}
            answer = requests.post(f"{self.url}/predict", png_of(each), headers=headers, timeout=30)
            assert answer.ok, answer.text
            found.append(answer.json())
        return found

    def versions(self, pictures: np.ndarray) -> Counter[str]:
        """Return which version has answered how often."""
        return Counter(each["model_version"] for each in self.predictions(pictures))


def png_of(pixels: np.ndarray) -> bytes:
    """Return a picture, uint8 H×W×3, as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def zip_of(pictures: np.ndarray, labels: list[str]) -> bytes:
    """Return a zip of class folders."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number, (pixels, label) in enumerate(zip(pictures, labels, strict=True)):
            archive.writestr(f"{label}/{number}.png", png_of(pixels))
    return buffer.getvalue()


def until(true: Callable[[], Any], seconds: float = 120) -> Any:
    """Wait until something is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < deadline
        time.sleep(0.5)
    return found
