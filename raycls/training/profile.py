"""Where the time of an epoch goes: seconds by named part, and a Chrome trace of its first steps.

    recorder = EpochRecorder(epochs=8, device=torch.device("cpu"), save=lambda folder: …)
    for metrics, snapshot in recorder.epochs(training, on_step): …

    mark("forward")      # in the training loop: from now on, time counts for this part

The second epoch is recorded, because the first one warms up; of a single epoch, that one. On a GPU, the recorded epoch
waits for the device after each part, so that a part's time is that of its computation. PyTorch's profiler slows down
the steps in the trace, those of small networks most.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, record_function

from raycls import progress

if TYPE_CHECKING:
    from raycls.tracking import Run
    from raycls.training.checkpoints import CheckpointStore
    from raycls.training.loop import Training
    from raycls.training.probe import Probe
    from raycls.training.snapshot import Snapshot

PARTS = {
    "read": "reading and gathering images",
    "augment": "augmentation",
    "forward": "the forward pass",
    "backward": "the backward pass",
    "average": "averaging over the workers",
    "optimiser": "the optimiser",
    "validation": "validation",
    "other": "everything else",
}
TRACED_STEPS = 50  # a trace of some hundred steps is too large for a viewer, and for memory
FOLDER, TRACE, TABLE = "profile", "trace.json.gz", "parts.json"


@dataclass(frozen=True)
class Profile:
    """The seconds of one epoch by part, on worker 0. traced: how many of its steps are in the trace."""

    epoch: int
    steps: int
    traced: int
    seconds: dict[str, float]

    def columns(self) -> dict[str, list[Any]]:
        """Return a table, the largest part first: its columns by name."""
        parts = sorted(self.seconds, key=lambda part: -self.seconds[part])
        whole = sum(self.seconds.values())
        return {
            "part": parts,
            "share": [self.seconds[part] / whole for part in parts],
            "ms_per_step": [1000 * self.seconds[part] / self.steps for part in parts],
        }

    def rows(self) -> list[tuple[str, str, str]]:
        """Return (part, share of the epoch, ms per step) as text, the largest part first."""
        columns = zip(*self.columns().values(), strict=True)
        return [(part, f"{share:.1%}", f"{ms:.2f}") for part, share, ms in columns]

    def told(self) -> str:
        """Return one sentence that names the largest part."""
        part, share, ms = self.rows()[0]
        return (
            f"the largest part of epoch {self.epoch} was {PARTS[part]}: {share}, {ms} ms for each of its "
            f"{self.steps} steps"
        )

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def log_profile(store: CheckpointStore, run: Run) -> Profile | None:
    """Log what a worker has recorded to the run's artifacts. Return it. Say so and return None if there is none."""
    with store.newest(FOLDER) as folder:
        if folder is None:
            progress.say(f"there is no profile: worker 0 could not write it under {store.path}")
            return None
        profile = Profile(**json.loads((folder / TABLE).read_text()))
        run.log_directory(folder, FOLDER)
    run.log_tables({f"{FOLDER}/table.json": profile.columns()})
    return profile


_recording: list[EpochRecorder] = []  # at most one: PyTorch's profiler is one for the process, too


def mark(part: str) -> None:
    """Count the time from now on for this part, a name in PARTS. Does nothing while no epoch is recorded."""
    if _recording:
        _recording[0].begin(part)


class EpochRecorder:
    """Records one epoch of a training. epochs: of the whole training.

    save: called with a folder of the trace and the seconds, which is deleted afterwards.
    """

    def __init__(self, epochs: int, device: torch.device, save: Callable[[Path], None]):
        self._chosen, self._device, self._save = min(1, epochs - 1), device, save
        activities = [ProfilerActivity.CPU]
        if device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        self._profiler = torch.profiler.profile(activities=activities)
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._steps = self._traced = 0

    def epochs(
        self, training: Training | Probe, on_step: Callable[[int, int], None]
    ) -> Iterator[tuple[dict[str, float], Snapshot]]:
        """Yield what `training.epochs(on_step)` yields."""

        def stepped(done: int, total: int) -> None:
            on_step(done, total)
            if _recording:
                self._stepped()

        rest = training.epochs(stepped)
        while True:
            chosen = training.epoch == self._chosen
            with self._record() if chosen else nullcontext():
                found = next(rest, None)
            if found is None:
                return
            if chosen:
                with tempfile.TemporaryDirectory() as folder:
                    self._write(Path(folder), training.epoch)
                    self._save(Path(folder))
            yield found

    def begin(self, part: str) -> None:
        """End the part that runs, and begin this one."""
        self._close()
        self._open(part)

    def _open(self, part: str) -> None:
        self._part, self._range, self._since = part, record_function(part), time.perf_counter()
        self._range.__enter__()

    def _close(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._seconds[self._part] += time.perf_counter() - self._since
        self._range.__exit__(None, None, None)

    @contextmanager
    def _record(self) -> Iterator[None]:
        self._profiler.start()
        self._open("other")
        _recording.append(self)
        try:
            yield
        finally:
            _recording.clear()
            self._close()
            self._end_trace()

    def _stepped(self) -> None:
        self._steps += 1
        if self._steps == TRACED_STEPS:  # the end of the trace takes a while, which is no part of the epoch
            self._close()
            self._end_trace()
            self._open("other")

    def _end_trace(self) -> None:
        if not self._traced:
            self._traced = self._steps
            self._profiler.stop()

    def _write(self, folder: Path, epoch: int) -> None:
        self._profiler.export_chrome_trace(str(folder / TRACE))
        profile = Profile(epoch=epoch, steps=self._steps, traced=self._traced, seconds=self._seconds)
        (folder / TABLE).write_text(json.dumps(profile.as_json()))
