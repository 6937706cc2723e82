"""What one replica sums up of the images it meets, until the control plane takes it, and the gauges of drift.

    drift = DriftSums.of(checkpoint)                          # None where the version has no reference
    if drift.has_room:
        drift.add(probabilities, embeddings, images, sizes)   # after a forward pass, in its thread
    drift.exchange(found)                                     # the sums since the last call, for the last findings

The sums come in chunks, so that the control plane can make windows of the size it wants. It takes them every five
seconds. A replica sums up CHUNKS × CHUNK images between two calls and no more: memory is constant, and a busy replica
spends no time on windows that end several times a second. An error here is logged once and costs no prediction.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily

from raycls.drift import file
from raycls.drift.reference import Reference
from raycls.drift.window import Sizes, Window, WindowSums
from raycls.errors import CheckpointError

CHUNK = 250  # images
CHUNKS = 8  # that wait for the control plane: as many images as a window has

logger = logging.getLogger("ray.serve")


class DriftSums:
    """The sums of one replica. Any thread may call its methods."""

    def __init__(self, reference: Reference):
        self._window = Window(reference)
        self._closed: list[WindowSums] = []
        self._found: Mapping[str, Any] | None = None
        self._failed = False
        self._lock = threading.Lock()

    @classmethod
    def of(cls, checkpoint: Path) -> DriftSums | None:
        """Return the sums for a checkpoint directory. None if it has no reference, or one that cannot be read."""
        try:
            reference = file.read(checkpoint)
        except CheckpointError as error:
            logger.warning(f"drift is not watched: {error}")
            return None
        return cls(reference) if reference else None

    @property
    def has_room(self) -> bool:
        """Whether it wants more images before the control plane asks again."""
        return len(self._closed) < CHUNKS

    def add(
        self,
        probabilities: np.ndarray,
        embeddings: np.ndarray,
        images: np.ndarray,
        sizes: Sequence[tuple[int, int]],
    ) -> None:
        """Add one batch: float32 N×C, float32 N×D, uint8 N×S×S×3, and width and height of the N encoded images."""
        try:
            with self._lock:
                self._add(probabilities, embeddings, images, sizes)
        except Exception:
            self._say_failed()

    def _say_failed(self) -> None:
        if not self._failed:
            logger.exception("raycls failed to sum up images for drift; it says so once")
        self._failed = True

    def _add(
        self, probabilities: np.ndarray, embeddings: np.ndarray, images: np.ndarray, sizes: Sizes
    ) -> None:
        done = 0
        while done < len(images) and self.has_room:
            part = slice(done, done + CHUNK - self._window.images)
            self._window.update(probabilities[part], embeddings[part], images[part], sizes[part])
            done = part.stop
            if self._window.images >= CHUNK:
                self._closed.append(self._window.take())

    def exchange(self, found: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """Return the sums since the last call (`WindowSums.as_json`), the oldest first, and begin anew.

        found: the last window that was examined, as GET /drift shows it. `families` reports it.
        """
        with self._lock:
            self._found = found
            if self._window.images:
                try:
                    self._closed.append(self._window.take())
                except Exception:
                    self._say_failed()
            taken, self._closed = self._closed, []
        return [sums.as_json() for sums in taken]

    def families(self) -> list[Metric]:
        """Return the gauges of the last window that was examined: no series before there was one."""
        return drift_families(self._found)


def drift_families(found: Mapping[str, Any] | None) -> list[Metric]:
    """Return the gauges of a window as GET /drift shows it. They have no label `replica`: one replica reports them."""
    effect = GaugeMetricFamily(
        "raycls_drift_effect", "How much the last window differs from the reference", labels=["feature"]
    )
    alarm = GaugeMetricFamily(
        "raycls_drift_alarm",
        "1 where the last window differs too much from the reference",
        labels=["feature"],
    )
    images = GaugeMetricFamily("raycls_drift_images", "Images in the last window that was examined for drift")
    if found:
        images.add_metric([], found["images"])
        for finding in found["findings"]:
            effect.add_metric([finding["feature"]], finding["effect"])
            alarm.add_metric([finding["feature"]], int(finding["alarm"]))
    return [effect, alarm, images]
