"""Runs clients that request predictions in the background of a test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import requests

from tests.predict import encoded

if TYPE_CHECKING:
    from raycls.serving.control.deploy import Served


CLIENTS = 4


@contextmanager
def asking(served: Served) -> Iterator[tuple[list[str], set[str]]]:
    """Run four clients that request predictions without a pause. Yield the failures and the versions that answered."""
    image = encoded()
    failed: list[str] = []
    seen: set[str] = set()
    stop = threading.Event()

    def ask() -> None:
        with requests.Session() as session:
            while not stop.is_set():
                try:
                    answer = session.post(f"{served.url}/predict", files={"file": image}, timeout=30)
                except requests.RequestException as error:
                    failed.append(repr(error))
                    continue
                if answer.status_code == 200:
                    seen.add(answer.json()["model_version"])
                else:
                    failed.append(f"{answer.status_code} {answer.text[:200]}")

    threads = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield failed, seen
    finally:
        stop.set()
        for thread in threads:
            thread.join()
