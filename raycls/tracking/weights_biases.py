"""One run in Weights & Biases, by its package `wandb`.

    tracker = WeightsAndBiases(None, project="cifar10", name="cifar10-20260114-101500-3f2a")
    tracker.log_metrics({"val_accuracy": 0.9}, step=1)
    tracker.end("FINISHED")

The variables of wandb count: WANDB_MODE=offline writes the run to the disk alone, WANDB_PROJECT, WANDB_ENTITY and
WANDB_DIR say where runs go. Uploads happen in a process of wandb, beside the training.
"""

from __future__ import annotations

import io
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from raycls import home, progress
from raycls.errors import TrackingError, UsageError
from raycls.tracking.mlflow_client import reason_of

START_S = 30.0  # longest time in which the server has to take a new run
UPLOAD_S = 300.0  # longest wait for the last uploads at the end; `wandb sync` uploads the rest
OFFLINE = "or keep the run on this machine for now, with WANDB_MODE=offline"


class WeightsAndBiases:
    """A `Tracker`. former: the id of the run to go on with, or None for a new one.

    Raises UsageError without a login, and TrackingError if the server does not take the run.
    """

    name = "Weights & Biases"

    def __init__(self, former: str | None, *, project: str, name: str, group: str | None = None):
        import wandb

        directory = Path(os.environ.get("WANDB_DIR") or home.home())
        directory.mkdir(parents=True, exist_ok=True)
        with progress.bar("opening Weights & Biases"):
            try:
                self._run = wandb.init(
                    project=os.environ.get("WANDB_PROJECT") or project,
                    name=name,
                    group=group,
                    id=former,
                    resume="allow" if former else None,
                    reinit="create_new",  # a study's run is open while its winner trains
                    dir=directory,
                    # wandb would write on stdout, which is for results, and copy all output of the process.
                    settings=wandb.Settings(
                        console="off", silent=True, init_timeout=START_S, finish_timeout=UPLOAD_S
                    ),
                )
            except (wandb.errors.AuthenticationError, wandb.errors.UsageError) as error:
                raise UsageError(
                    f"Weights & Biases takes no run: {reason_of(error).rstrip('.')}; log in with `wandb login`, or set "
                    f"WANDB_API_KEY, {OFFLINE}"
                ) from None
            except Exception as error:  # its server, its process, its settings
                raise TrackingError(
                    f"Weights & Biases does not start: {reason_of(error).rstrip('.')}; check the network and the "
                    f"variables WANDB_…, {OFFLINE}"
                ) from None
        _leave_imports_alone()
        self.id = self._run.id
        # Not wandb's own count of calls: an epoch may be logged later than the next one, or by a resumed run.
        self._run.define_metric("*", step_metric="epoch")
        offline = f"`wandb sync {Path(self._run.dir).parent}` uploads it"
        where = offline if self._run.offline else self._run.url
        progress.say(f"Weights & Biases: run {self.id}; {where}")

    def log_params(self, params: dict[str, Any]) -> None:
        self._run.config.update(params, allow_val_change=True)

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        if step:
            self._run.log({**metrics, "epoch": step})
        else:
            self._run.summary.update(metrics)

    def log_figure(self, png: bytes, name: str) -> None:
        import wandb
        from PIL import Image

        self._run.log({_key("figures", name): wandb.Image(Image.open(io.BytesIO(png)))})

    def log_tables(self, tables: dict[str, dict[str, list[Any]]]) -> None:
        import wandb

        for name, columns in tables.items():
            rows = [list(row) for row in zip(*columns.values(), strict=True)]
            self._run.log({_key("tables", name): wandb.Table(columns=list(columns), data=rows)})

    def log_checkpoint(self, directory: Path) -> None:
        import wandb

        artifact = wandb.Artifact(f"checkpoint-{self.id}", type="model")
        artifact.add_dir(str(directory))
        self._run.log_artifact(artifact)

    def end(self, status: str) -> None:
        with progress.bar("ending the run of Weights & Biases"):
            self._run.finish(exit_code=0 if status == "FINISHED" else 1)


def _leave_imports_alone() -> None:
    """Let wandb not count what is imported: with its process gone, `import optuna` raises ConnectionError."""
    with suppress(ImportError):  # another release of wandb may have it elsewhere
        from wandb.sdk.lib.import_hooks import unregister_all_post_import_hooks

        unregister_all_post_import_hooks()


def _key(kind: str, name: str) -> str:
    """Return the key of a file. A figure and a table may have the same name, and a key has one type."""
    return f"{kind}/{Path(name).with_suffix('')}"
