"""Tell what the curves of a training say while it trains: under- or overfitting, and what to try next.

    curves = WatchedEpochs(run, config, dataset.info)
    curves.add(metrics)        # logs the epoch, and prints a finding once it is confirmed

Each verdict is told once. The run's tag `findings` keeps them, which the console shows while the run goes on.
"""

from __future__ import annotations

import json
from typing import Any

from raycls import progress, tracking
from raycls.config import Config
from raycls.data.packed import DatasetInfo
from raycls.training.curves import FINDINGS, warnings
from raycls.training.events import EpochLogger


class WatchedEpochs(EpochLogger):
    """An `EpochLogger` that also tells what the curves say. `logged`: the epochs that the run already has."""

    def __init__(
        self, run: tracking.Run, config: Config, info: DatasetInfo, logged: frozenset[int] = frozenset()
    ):
        super().__init__(run, logged)
        self._curves: dict[int, dict[str, float]] = {}
        self._known: dict[str, Any] = {
            "val_images": info.counts.get("val", 0),
            "classes": len(info.classes),
            "epochs": config.training.epochs,
            "mixed": bool(config.augment.mixup or config.augment.cutmix),
        }
        former = tracking.find_run(run.id) if logged else None
        self._told: list[dict[str, Any]] = json.loads(former.data.tags.get(FINDINGS, "[]")) if former else []
        self._tagged = len(self._told)

    def add(self, metrics: dict[str, float]) -> None:
        """Log an epoch's metrics, and tell what is found for the first time."""
        epoch = int(metrics["epoch"])
        self._curves[epoch] = metrics
        history = [self._curves[each] for each in sorted(self._curves) if each <= epoch]
        told = {each["verdict"] for each in self._told}
        validated = "val_loss" in metrics  # not where all images are learned
        for finding in warnings(history, **self._known) if validated else []:
            if finding.verdict not in told:
                self._told.append({"verdict": finding.verdict, "reason": finding.reason, "epoch": epoch})
                progress.say(f"  {finding.verdict}, after epoch {epoch}: {finding.reason}")
        super().add(metrics)

    def flush(self) -> None:
        """Log the epochs and the findings that were kept. Raises MLflow's error."""
        super().flush()
        if len(self._told) > self._tagged:
            self.run.tag({FINDINGS: json.dumps(self._told)})
            self._tagged = len(self._told)
