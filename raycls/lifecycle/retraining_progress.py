"""How far the training of a retraining is, from its runs in MLflow.

progress_of(record)             # {"epoch": 3, "epochs": 25}, or {"trials": 2, "of": 8}; {} before it begins
"""

from __future__ import annotations

from raycls import tracking
from raycls.lifecycle.retraining import TAG, Retraining


def progress_of(record: Retraining) -> dict[str, int]:
    """Return the epochs, or the trials of a study, that are done, and how many there will be. Raises RegistryError."""
    if "data" not in record.done:
        return {}
    dataset = record.done["data"]["dataset"].partition("@")[0]
    if record.wanted.tune:
        trials = tracking.find_runs(dataset, f"tags.kind = 'trial' and tags.study = '{record.study}'")
        done = sum(trial.info.status == "FINISHED" for trial in trials)
        return {"trials": done, "of": record.wanted.tune} if trials else {}
    for run in tracking.find_runs(dataset, f"tags.{TAG} = '{record.id}'"):
        return {
            "epoch": int(run.data.metrics.get("epoch", 0)),
            "epochs": int(run.data.params["training.epochs"]),
        }
    return {}
