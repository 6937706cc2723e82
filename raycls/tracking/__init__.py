"""Experiments and runs in MLflow.

from raycls import tracking

with tracking.run("cifar10", "quick-1", tags={}) as current:
    current.log_metrics({"val_accuracy": 0.9}, step=1)
"""

from raycls.tracking.mlflow_client import (
    answering,
    client,
    experiment,
    find_run,
    find_runs,
    is_absence,
    page_of,
    reason_of,
)
from raycls.tracking.runs import CHECKPOINT, Run, ending, history, run, start_child
from raycls.tracking.trackers import TOOLS, Tracker, check

__all__ = [
    "CHECKPOINT",
    "TOOLS",
    "Run",
    "Tracker",
    "answering",
    "check",
    "client",
    "ending",
    "experiment",
    "find_run",
    "find_runs",
    "history",
    "is_absence",
    "page_of",
    "reason_of",
    "run",
    "start_child",
]
