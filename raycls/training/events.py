"""Show the progress of a training run, and log its epochs in MLflow.

    with listening(logger, config, scaling) as channel:     # workers get the channel
        trainer.fit()

A worker sends ["step", done, total], ["epoch", metrics] or ["resumed", epoch, step], and does not wait for the driver.
The driver reads the channel once a second. It shows a progress bar and prints a line for each epoch. Restarted workers
may send an epoch twice; it is logged once.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from raycls import progress, tracking
from raycls.config import Config
from raycls.tracking.resumable import Heartbeat

LOOK_S = 1.0  # seconds between two reads of the channel


class EpochListener(Protocol):
    """An object that receives the metrics of each epoch, such as `EpochLogger`."""

    def add(self, metrics: dict[str, float]) -> None: ...

    def beat(self) -> None: ...


class EpochLogger:
    """Log the epochs of one MLflow run, each once. `logged`: the epochs that the run already has."""

    def __init__(self, run: tracking.Run, logged: frozenset[int] = frozenset()):
        self.run = run
        self.beat = Heartbeat(run).beat
        self._logged = set(logged)
        self._waiting: dict[int, dict[str, float]] = {}

    def add(self, metrics: dict[str, float]) -> None:
        """Log an epoch's metrics. If MLflow does not accept them now, keep them until the next call."""
        if (epoch := int(metrics["epoch"])) in self._logged:
            return
        self._waiting[epoch] = metrics
        try:
            self.flush()
        except Exception as error:  # training continues if MLflow or its server fails
            progress.say(f"MLflow does not take the figures of epoch {epoch}: {tracking.reason_of(error)}")

    def flush(self) -> None:
        """Log the epochs that were kept. Raises MLflow's error."""
        for epoch in sorted(self._waiting):
            self.run.log_metrics(self._waiting[epoch], step=epoch)
            self._logged.add(epoch)
            del self._waiting[epoch]


class Channel:
    """Carries events, which are JSON values, to the driver: a small actor holds them until it takes them.

    A worker gets the channel with its task.
    """

    def __init__(self) -> None:
        import ray

        self._actor: Any = ray.remote(num_cpus=0)(_Events).remote()

    def put(self, event: Sequence[Any]) -> None:
        self._actor.put.remote(event)

    def take(self) -> list[Any]:
        import ray

        return ray.get(self._actor.take.remote())


class _Events:
    def __init__(self) -> None:
        self._events: list[Any] = []

    def put(self, event: Sequence[Any]) -> None:
        self._events.append(event)

    def take(self) -> list[Any]:
        events, self._events = self._events, []
        return events


@contextmanager
def listening(curves: EpochListener, config: Config, scaling: dict[str, Any]) -> Iterator[Channel]:
    """Yield a channel. A thread handles its events until the context ends."""
    channel, over = Channel(), threading.Event()
    arguments = (_events(channel, over, curves.beat), curves, config, scaling)
    thread = threading.Thread(target=_listen, args=arguments, daemon=True)
    thread.start()
    try:
        yield channel
    finally:
        over.set()
        thread.join(timeout=10)


def _events(channel: Channel, over: threading.Event, beat: Callable[[], None]) -> Iterator[Any]:
    """Yield the events in order. Stop when `over` is set and the remaining events were read."""
    last_look = False
    while not last_look:
        last_look = over.wait(LOOK_S)
        # MLflow or the channel may be unreachable for a while. If it stays unreachable, the run itself reports it.
        with suppress(Exception):
            beat()
        with suppress(Exception):
            yield from channel.take()


def _listen(events: Iterator[Any], curves: EpochListener, config: Config, scaling: dict[str, Any]) -> None:
    count = scaling["num_workers"]
    kind = "GPU" if scaling.get("use_gpu") else f"{scaling['resources_per_worker']['CPU']} CPU"
    with progress.bar(f"starting {count} training worker{'s' if count > 1 else ''} × {kind}"):
        first = next(events, None)
    if first is None:
        return
    epochs = config.training.epochs
    with progress.bar(f"training {epochs} epochs", total=epochs) as bar:
        for what, *told in itertools.chain([first], events):
            if what == "step":
                done, total = told
                bar.update(epochs * done / total)
            elif what == "resumed":
                epoch, step = told
                after = f"step {step:,} of epoch {epoch + 1}" if step else f"epoch {epoch}"
                progress.say(f"  going on after {after}")
                bar.update(told[0])
            else:
                metrics = told[0]
                epoch = int(metrics["epoch"])
                curves.add(metrics)
                digits = {"train_loss": 3, "val_loss": 3, "val_accuracy": 4}
                shown = "  ".join(
                    f"{key} {metrics[key]:.{n}f}" for key, n in digits.items() if key in metrics
                )
                progress.say(f"  epoch {epoch}/{epochs}  {shown}  {metrics['images_per_s']:,.0f} images/s")
                bar.update(epoch)
