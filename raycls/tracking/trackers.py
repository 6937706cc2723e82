"""The tools that a run is logged to beside MLflow, by one small interface.

    check(("wandb",))                                             # before anything starts
    followers = opened({"wandb": None}, project="cifar10", name="cifar10-20260114-101500-3f2a")
    followers.tell(lambda each: each.log_metrics({"val_accuracy": 0.9}, step=1))

MLflow holds what raycls itself needs, such as versions and what resumes a run. The tools only show runs to people: a
tool that fails while a training runs never costs the training. To add a tool, such as TensorBoard, write a class with
the methods of `Tracker`, and add it to `_open` and to TOOLS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from raycls import progress
from raycls.errors import UsageError
from raycls.tracking.mlflow_client import reason_of

TOOLS = ("wandb",)  # the names that --log takes: also that of the package, and of the extra that installs it


class Tracker(Protocol):
    """A tool that shows one run. MLflow's `tracking.Run` has the same methods, and passes each call on to the others.

    name: the tool, for messages. id: under it, a resumed run goes on.
    """

    name: str
    id: str

    def log_params(self, params: dict[str, Any]) -> None: ...

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        """Log values at a step, which is the epoch. Step 0: they are of the whole run."""

    def log_figure(self, png: bytes, name: str) -> None: ...

    def log_tables(self, tables: dict[str, dict[str, list[Any]]]) -> None:
        """Log tables by file name. Each is its columns by name, all of the same length."""

    def log_checkpoint(self, directory: Path) -> Any:
        """Keep a copy of the directory, which is temporary."""

    def end(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED."""


class Followers:
    """The tools that follow one run, by their names in TOOLS. What one raises is said once, and stops nothing."""

    def __init__(self, trackers: Mapping[str, Tracker] | None = None):
        self._trackers = dict(trackers or {})
        self._failed: set[str] = set()

    def tell(self, what: Callable[[Tracker], Any]) -> None:
        """Call `what` with each tool."""
        for tracker in self._trackers.values():
            try:
                what(tracker)
            except Exception as error:
                if tracker.name not in self._failed:
                    self._failed.add(tracker.name)
                    reason = reason_of(error).rstrip(".")
                    progress.say(
                        f"{tracker.name} does not take all of this run: {reason}. MLflow does, and the run goes on"
                    )

    def ids(self) -> dict[str, str]:
        """Return the id of the run in each tool, by the tool's name in TOOLS."""
        return {tool: tracker.id for tool, tracker in self._trackers.items()}


def check(tools: Iterable[str]) -> None:
    """Raise UsageError for a tool that raycls does not know, and for one that is not installed."""
    for tool in tools:
        if tool not in TOOLS:
            raise UsageError(f"there is no tool {tool!r} to log to: --log takes {' or '.join(TOOLS)}")
        if find_spec(tool) is None:
            raise UsageError(f"--log {tool} needs the package {tool}: pip install 'raycls[{tool}]'")


def opened(ids: Mapping[str, str | None], *, project: str, name: str, group: str | None = None) -> Followers:
    """Return the tools that follow the run. ids: the run's id in each of them, or None for a new run.

    project: of runs that are compared with each other. group: of runs that belong together, such as a study and the
    training of its winner. Raises UsageError and TrackingError, which say what to do, where a tool takes no run.
    """
    check(ids)
    return Followers({tool: _open(tool, former, project, name, group) for tool, former in ids.items()})


def _open(tool: str, former: str | None, project: str, name: str, group: str | None) -> Tracker:
    from raycls.tracking.weights_biases import WeightsAndBiases

    assert tool == "wandb"
    return WeightsAndBiases(former, project=project, name=name, group=group)
