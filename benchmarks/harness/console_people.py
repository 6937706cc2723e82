"""People at the console, scripted: they sign in, look at pages one after another, and try pictures.

with People(url, "cifar10", images, 5) as people: ...
people.clicks, people.failed
"""

from __future__ import annotations

import io
import random
import re
import threading
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import requests
from PIL import Image

from raycls import home
from raycls.cluster.environment import give_way_here
from raycls.data.packed import PackedDataset

PAUSE_S = (0.5, 1.5)  # between two clicks of one person
TIMEOUT_S = 60


class SignedIn:
    """One person, with the admin's token of this home."""

    def __init__(self, url: str):
        self.url = f"{url}/console"
        self._session = requests.Session()
        token = (home.home() / "admin_token").read_text().strip()
        self._session.post(f"{self.url}/sign-in", {"token": token}, timeout=TIMEOUT_S).raise_for_status()
        found = re.search(r'data-csrf="([^"]+)"', self.page("/"))
        self._headers = {"X-Csrf": found[1] if found else "", "Accept": "application/json"}

    @staticmethod
    def paths(model: str) -> tuple[str, ...]:
        """Return the paths of the pages."""
        own = (f"/models/{model}", f"/runs?dataset={model}", f"/datasets/{model}/1")
        return ("/", "/models", *own, "/datasets", "/teach", "/live", "/live/hour")

    def page(self, path: str) -> str:
        answer = self._session.get(self.url + path, timeout=TIMEOUT_S)
        answer.raise_for_status()
        return answer.text

    def pages(self, model: str) -> None:
        """Look at every page."""
        for path in self.paths(model):
            self.page(path)

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """Send what a page's script would, and return the JSON of the answer."""
        answer = self._session.request(
            method, self.url + path, headers=self._headers, timeout=TIMEOUT_S, **options
        )
        answer.raise_for_status()
        return answer.json()


class People:
    """`count` people who click until the block ends."""

    def __init__(self, url: str, model: str, images: Path, count: int):
        self._ended = threading.Event()
        self._model, self._images = model, sorted(path for path in images.rglob("*") if path.is_file())
        self._persons = [SignedIn(url) for _ in range(count)]
        self.clicks = self.failed = 0
        self._threads = [
            threading.Thread(target=self._click, args=(person, seed))
            for seed, person in enumerate(self._persons)
        ]

    def __enter__(self) -> People:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _click(self, person: SignedIn, seed: int) -> None:
        give_way_here()  # as if it were on another machine: people do not click on the server's cores
        chance = random.Random(seed)
        while not self._ended.wait(chance.uniform(*PAUSE_S)):
            try:
                if chance.random() < 0.3:
                    person.ask("POST", "/try", data=chance.choice(self._images).read_bytes())
                else:
                    person.page(chance.choice(person.paths(self._model)))
            except requests.RequestException:
                self.failed += 1
            self.clicks += 1


def zip_of_many(dataset: PackedDataset, count: int) -> bytes:
    """Return a zip of class folders with `count` pictures of the dataset, each with noise of its own."""
    images, labels, noise = dataset.images("train"), dataset.labels("train"), np.random.default_rng(0)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for number in range(count):
            row = number % len(labels)
            changed = images[row].astype(int) + noise.integers(-8, 9, images[row].shape)
            png = io.BytesIO()
            Image.fromarray(np.clip(changed, 0, 255).astype(np.uint8)).save(png, "PNG")
            archive.writestr(f"{dataset.info.classes[labels[row]]}/{number}.png", png.getvalue())
    return buffer.getvalue()
