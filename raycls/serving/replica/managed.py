"""What the control plane asks of a replica, and what the server's state tells it. None of it is on a request's way.

class Classifier(Managed): ...
"""

from __future__ import annotations

from typing import Any

from raycls import registry
from raycls.serving.replica.captured import Captured, Prediction
from raycls.serving.replica.challenger_calls import connect
from raycls.serving.replica.challenger_link import ChallengerError
from raycls.serving.replica.experiment import LiveExperiment
from raycls.serving.replica.inference import Inference
from raycls.serving.replica.metrics import Metrics
from raycls.serving.settings import ServingConfig
from raycls.serving.state import ServingState


class Managed:
    """A replica, as the control plane knows it. pending: requests that it holds. live: its part in an experiment;
    capture: the pictures that it sets aside. None without."""

    config: ServingConfig
    version: registry.ModelVersion
    replica: str
    inference: Inference
    metrics: Metrics
    pending: int
    live: LiveExperiment | None
    capture: Captured | None

    async def take_up(self, now: ServingState) -> None:
        """Begin, change or end this replica's part in an experiment, and in capture, as the server's state says."""
        policy = now.capture if now.capture and now.capture.is_on else None
        if (self.capture.policy if self.capture else None) != policy:
            self.capture = Captured(policy) if policy else None
        wanted = now.experiment
        if wanted and wanted.champion != self.version.reference:
            wanted = None
        if self.live and (wanted is None or wanted.id != self.live.experiment.id):
            self.live.end()
            self.live = None
        if wanted and self.live:
            self.live.experiment = wanted
        elif wanted:
            try:
                link = await connect(wanted.id, self.config.max_batch_size)
            except ChallengerError:
                return  # it is not running yet
            self.live = LiveExperiment(wanted, self.inference, link, self.version.version)

    async def captured(self) -> list[tuple[bytes, Prediction]]:
        """Return the pictures that were set aside for a review since the last call."""
        return self.capture.take() if self.capture else []

    async def served(self) -> tuple[str, ServingConfig]:
        """Return the version, NAME/VERSION, and the settings, for the control plane."""
        return self.version.reference, self.config

    async def version_counts(self) -> tuple[str, str, dict[str, Any]]:
        """Return the version, this replica's id, and what it has answered, for the watch after a promotion."""
        return self.version.reference, self.replica, self.metrics.as_arm()

    async def traffic(self) -> dict[str, Any]:
        """Return what this replica has answered since it started, for the page of the last hour."""
        return {
            "replica": self.replica,
            "started": self.metrics.started,
            "pending": self.pending,
            "counts": self.metrics.as_traffic(),
        }

    async def experiment_counts(self) -> dict[str, Any] | None:
        """Return this replica's counts of the experiment, and the new images on which both disagreed, or None."""
        if self.live is None:
            return None
        counts = self.live.counts.as_json() | {"replica": self.replica}
        counts["disagreements"] = [
            self.live.disagreements.popleft() for _ in range(len(self.live.disagreements))
        ]
        return counts

    async def drift_sums(self, found: dict[str, Any]) -> dict[str, Any] | None:
        """Return the version and what it saw since the last call, or None without drift, for the control plane.

        found: by version, the window that was examined last.
        """
        if self.inference.drift is None:
            return None
        reference = self.version.reference
        return {"version": reference, "chunks": self.inference.drift.exchange(found.get(reference))}
