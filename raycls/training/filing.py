"""What a finished training leaves: a calibrated and measured checkpoint, its figures in MLflow, a registered version.

result = filed(directory, dataset, run, "pets", lineage={"study": "pets-1"})
result.version.reference, result.metrics["test_accuracy"]
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from raycls import registry, tracking
from raycls.data.packed import PackedDataset
from raycls.drift import file as drift_file
from raycls.engines.predictor import Predictor
from raycls.models.card import WEIGHTS, update_card
from raycls.training.calibration import calibrated
from raycls.training.evaluation import Evaluation, confusion_png, evaluate
from raycls.training.profile import Profile

OF_EPOCHS = ("val_accuracy", "val_loss", "val_macro_accuracy", "val_macro_f1")


@dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """A finished run. version: None if no model was registered. profile: of one epoch, if it was asked for.

    metrics: those of the best epoch (named in `loop.Training.epochs`), those of the test split, and
    total_train_seconds, the time in the training loop until the last epoch.
    """

    run_id: str
    metrics: dict[str, float]
    evaluation: Evaluation
    version: registry.ModelVersion | None
    profile: Profile | None = None


def filed(
    directory: Path,
    dataset: PackedDataset,
    run: tracking.Run,
    model: str | None,
    lineage: dict[str, str],
    *,
    more: dict[str, float],
    step: int | None = None,
) -> TrainingResult:
    """Calibrate a checkpoint, evaluate it on the test split, measure what is usual, log it, and register it as `model`.

    directory: changed in place. model: None registers nothing. more: further metrics. step: the epoch in MLflow, whose
    curves have the figures of val already; None for what was not trained.

    The weights are logged first, so that MLflow has them whatever fails afterwards.
    """
    run.log_checkpoint(directory)
    predictor, found = calibrated(Predictor.load(directory), dataset)
    evaluation = evaluate(predictor, dataset, "test")
    found |= evaluation.metrics("test") | more
    drift_file.write(directory, predictor, dataset)
    temperature = predictor.card.temperature
    card = update_card(directory, metrics=found, temperature=temperature)
    # A run's curves of val are those of the training, at temperature 1 and at the size of the epoch's images.
    logged = {name: value for name, value in found.items() if step is None or name not in OF_EPOCHS}
    run.log_metrics({**logged, "temperature": temperature}, step=step or 0)
    _log_report(run, evaluation, dataset)
    version = None
    if model:
        # A driver that was killed may already have registered the model.
        version = registry.of_run(run.id) or registry.register(
            model,
            run,
            directory,
            fingerprint=dataset.info.fingerprint,
            metrics=card.metrics,
            lineage={"run_id": run.id, **lineage},
            logged=(WEIGHTS,),
        )
    else:
        run.log_checkpoint(directory, logged=(WEIGHTS,))
    return TrainingResult(run_id=run.id, metrics=card.metrics, evaluation=evaluation, version=version)


def _log_report(run: tracking.Run, evaluation: Evaluation, dataset: PackedDataset) -> None:
    run.log_figure(confusion_png(evaluation, f"{dataset.info.name}, test split"), "confusion_matrix.png")
    accuracies = evaluation.class_accuracy
    run.log_tables(
        {
            "confusion_matrix.json": evaluation.confusion_table,
            "class_accuracy.json": {"class": list(accuracies), "accuracy": list(accuracies.values())},
        }
    )
    run.log_json(dataset.info.model_dump(mode="json"), "dataset.json")
