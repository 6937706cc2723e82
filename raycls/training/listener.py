"""What the training workers tell, as it comes in: a bar and a line per epoch for people, points on MLflow's curves.

    with listening(curves, config, scaling) as events:     # events: a ray.util.queue.Queue, for the workers
        trainer.fit()

A worker puts ("step", done, total), ("epoch", metrics) or ("resumed", epoch) and waits for no answer; None is the end.
After a restart an epoch may be told twice: its point is drawn once.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from raycls import progress, registry
from raycls.config import Config
from raycls.training.runs import BEAT_S, Heart

if TYPE_CHECKING:
    from ray.util.queue import Queue


class Curves:
    """The epochs of one MLflow run, each logged once. `logged` are those that are there from the start."""

    def __init__(self, run: registry.Run, logged: frozenset[int] = frozenset()):
        self.run = run
        self._logged = set(logged)
        self._waiting: dict[int, dict[str, float]] = {}

    def add(self, metrics: dict[str, float]) -> None:
        """Log an epoch's metrics, or keep them for the next time where MLflow does not take them now."""
        if (epoch := int(metrics["epoch"])) in self._logged:
            return
        self._waiting[epoch] = metrics
        try:
            self.flush()
        except Exception as error:  # MLflow's own, or its server's: training need not wait for it
            progress.say(f"MLflow does not take the figures of epoch {epoch}: {registry.reason_of(error)}")

    def flush(self) -> None:
        """Log what waits. Raises MLflow's error."""
        for epoch in sorted(self._waiting):
            self.run.log_metrics(self._waiting[epoch], step=epoch)
            self._logged.add(epoch)
            del self._waiting[epoch]


def tell(events: Queue, event: Any) -> None:
    """Put an event without waiting for an answer: training never waits for its audience."""
    events.actor.put_nowait.remote(event)  # type: ignore[attr-defined]


@contextmanager
def listening(curves: Curves, config: Config, scaling: dict[str, Any]) -> Iterator[Queue]:
    """Listen, in a thread of its own, to what is put into the queue."""
    from ray.util.queue import Queue

    events = Queue(actor_options={"num_cpus": 0})
    thread = threading.Thread(target=_listen, args=(events, curves, config, scaling), daemon=True)
    thread.start()
    try:
        yield events
    finally:
        tell(events, None)
        thread.join(timeout=10)
        events.shutdown()


def _listen(events: Queue, curves: Curves, config: Config, scaling: dict[str, Any]) -> None:
    heart = Heart(curves.run)

    def next_event() -> Any:
        from ray.util.queue import Empty

        while True:
            heart.beat()
            try:
                return events.get(timeout=BEAT_S)
            except Empty:
                continue
            except Exception:  # the queue's actor dies with the cluster; the run itself reports why
                return None

    count = scaling["num_workers"]
    kind = "GPU" if scaling.get("use_gpu") else f"{scaling['resources_per_worker']['CPU']} CPU"
    with progress.bar(f"starting {count} training worker{'s' if count > 1 else ''} × {kind}"):
        event = next_event()
    if event is None:
        return
    epochs = config.training.epochs
    with progress.bar(f"training {epochs} epochs", total=epochs) as bar:
        while event is not None:
            if event[0] == "step":
                bar.update(epochs * event[1] / event[2])
            elif event[0] == "resumed":
                progress.say(f"  going on after epoch {event[1]}")
                bar.update(event[1])
            else:
                metrics = event[1]
                epoch = int(metrics["epoch"])
                curves.add(metrics)
                progress.say(
                    f"  epoch {epoch}/{epochs}  train_loss {metrics['train_loss']:.3f}  val_loss "
                    f"{metrics['val_loss']:.3f}  val_accuracy {metrics['val_accuracy']:.4f}  "
                    f"{metrics['images_per_s']:,.0f} images/s"
                )
                bar.update(epoch)
            event = next_event()
