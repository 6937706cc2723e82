"""A large store for the console: 5,000 versions, 2,000 runs and a study of 1,000 trials.

study_run, last_run = fill(version)          # the ids of their MLflow runs
"""

from __future__ import annotations

import random
import time

from raycls import progress, tracking
from raycls.models.card import load_card
from raycls.registry import ModelVersion, checkpoint
from raycls.tuning.optuna_study import open_storage

VERSIONS, RUNS, TRIALS = 5_000, 2_000, 1_000
EPOCHS = 10
FIGURES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")


def fill(version: ModelVersion) -> tuple[str, str]:
    """Add them to the registry, MLflow and Optuna of this home. Return the runs of the study and of a training."""
    from mlflow.entities import Metric, Param

    chance, client = random.Random(0), tracking.client()
    dataset = load_card(checkpoint(version)).dataset
    experiment = tracking.experiment(dataset)
    last = ""
    with progress.bar(f"writing {RUNS:,} runs"):
        for number in range(RUNS):
            run = client.create_run(
                experiment, run_name=f"run-{number}", tags={"kind": "training", "dataset_version": "1"}
            )
            last, now = run.info.run_id, int(1000 * time.time())
            metrics = [
                Metric(name, chance.random(), now, epoch) for name in FIGURES for epoch in range(EPOCHS)
            ]
            metrics += [Metric("epoch", epoch, now, epoch) for epoch in range(EPOCHS)]
            client.log_batch(last, metrics, [Param("dataset", dataset), Param("dataset_version", "1")])
            client.set_terminated(last)
    with progress.bar(f"writing {VERSIONS:,} versions"):
        for _ in range(VERSIONS):
            client.create_model_version(version.name, version.uri, version.run_id, tags=version.tags)
    with progress.bar(f"writing a study of {TRIALS:,} trials"):
        study = client.create_run(experiment, run_name="many", tags={"kind": "study"}).info.run_id
        client.set_terminated(study)
        _study(chance)
    return study, last


def _study(chance: random.Random) -> None:
    import optuna

    study = optuna.create_study(study_name="many", storage=open_storage(), direction="maximize")
    spread = optuna.distributions.FloatDistribution(0.001, 1.0)
    for _ in range(TRIALS):
        score = chance.random()
        study.add_trial(
            optuna.trial.create_trial(
                params={"optim.lr": chance.uniform(0.001, 1.0)},
                distributions={"optim.lr": spread},
                value=score,
                intermediate_values={epoch: score * epoch / EPOCHS for epoch in range(1, EPOCHS + 1)},
            )
        )
