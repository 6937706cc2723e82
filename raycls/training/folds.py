"""Cross-validation: a model for each fold of train and val, their figures, and one version that all of them make.

    result = train_folds("pets", config, folds=5)
    result.metrics["fold_accuracy_mean"], result.metrics["test_accuracy"], result.version.reference

Each fold is an ordinary training run, which registers nothing. The figures are those of each model on its own fold,
which it has not learned; its best epoch was chosen there. The version is the ensemble of the models. As each image of
train and val was learned by all of them but one, the ensemble itself is measured on `test` alone, and the temperature
is that of single models on their own folds. The split `gate` stays unseen.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from raycls import home, progress, registry, tracking
from raycls.config import Config
from raycls.data.layout import parse
from raycls.data.packed import PackedDataset
from raycls.data.prepare import open_or_prepare
from raycls.data.subsets import Images, Subset, described, opened
from raycls.engines.examples import match
from raycls.engines.predictor import Predictor
from raycls.errors import TrainingError, UsageError
from raycls.models import checkpoint
from raycls.models.card import load_card
from raycls.models.ensemble import combined
from raycls.tracking import resumable
from raycls.tracking.resumable import FOLD, FOLD_RUNS, FOLDS, FoldsSpec
from raycls.training import setup, trainer
from raycls.training.calibration import LEAST_IMAGES, temperature
from raycls.training.checkpoints import CheckpointStore
from raycls.training.ensembles import timed
from raycls.training.evaluation import Evaluation, Scores, confusion_png, score
from raycls.training.filing import TrainingResult, filed
from raycls.training.refit import tag_of, without_gate

CONFIDENCE = 0.95  # of the interval of a mean over folds


class _Trained(NamedTuple):
    run_id: str
    name: str  # of the run, and of its checkpoints
    seconds: float


def train_folds(
    reference: str,
    config: Config,
    folds: int,
    *,
    workers: int | None = None,
    use_gpu: bool | None = None,
    model: str | None = None,
    init: str | None = None,
    weights: str | None = None,
    log: Sequence[str] = (),
) -> TrainingResult:
    """Train a model for each fold, and register their ensemble. Return its figures and those over the folds.

    The arguments are those of `raycls.training.trainer.train`. Raises as it does, and UsageError where the dataset has
    fewer groups of images than folds, or init has learned some of them.
    """
    tracking.check(log)
    dataset = open_or_prepare(reference)
    name = dataset.info.name
    if init and load_card(registry.checkpoint(registry.resolve(init))).dataset == name:
        raise UsageError(
            f"{init} has learned images of {name}, which are in each fold, so that no fold could be measured: leave "
            "out --init, or start from a model of another dataset"
        )
    model = registry.check_name(model or name)
    for fold in range(1, folds + 1):
        setup.check(config, described(dataset, Subset(folds=folds, fold=fold)), workers or 1)
    _say_gaps(dataset, folds)
    spec = FoldsSpec(
        dataset=name,
        dataset_version=dataset.info.version,
        fingerprint=dataset.info.fingerprint,
        config=config,
        storage=home.storage(),
        model=model,
        init=registry.resolve(init).reference if init else None,
        weights=weights,
        log=tuple(log),
        folds=folds,
    )
    run_name = f"{name}-folds-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    with resumable.begin(spec, run_name, {}) as run:
        run.log_dataset(dataset.info)
        return _carry_out(spec, run_name, dataset, run, workers, use_gpu)


def resume(
    dataset_name: str, reference: str, *, workers: int | None = None, use_gpu: bool | None = None
) -> TrainingResult:
    """Go on with an interrupted run over folds: finished folds are not trained again. Raises as `trainer.resume`."""
    former = resumable.find(FoldsSpec, reference, parse(dataset_name)[0])
    dataset = former.spec.open_dataset()
    with resumable.again(former) as run:
        return _carry_out(former.spec, former.name, dataset, run, workers, use_gpu)


def _say_gaps(dataset: PackedDataset, folds: int) -> None:
    """Say what the folds of a dataset do not allow."""
    without_gate(dataset)
    images = Images(dataset)
    fold_of = images.folds(folds)
    lacking = sorted(
        {
            dataset.info.classes[label]
            for label in set(images.labels.tolist())
            if len(set(fold_of[images.labels == label].tolist())) == 1
        }
    )
    if lacking:
        progress.say(
            f"all images of {', '.join(lacking[:10])} are one group, and so in one fold: its model does not learn them"
        )


def _carry_out(
    spec: FoldsSpec,
    name: str,
    dataset: PackedDataset,
    run: tracking.Run,
    workers: int | None,
    use_gpu: bool | None,
) -> TrainingResult:
    progress.say(f"run {name}; to continue it after an interruption: {spec.resume_command(name)}")
    scores: list[Scores] = []
    trained: list[_Trained] = []
    began = time.monotonic()
    for fold in range(1, spec.folds + 1):
        trained.append(_train(spec, name, fold, dataset, workers, use_gpu))
        scores.append(_on_fold(spec, fold, trained[-1], dataset))
        found = scores[-1].evaluation().metrics("fold")
        run.log_metrics(found, step=fold)
        left = (spec.folds - fold) * (time.monotonic() - began) / fold
        progress.say(
            f"fold {fold} of {spec.folds}: accuracy {found['fold_accuracy']:.4f}, macro recall "
            f"{found['fold_macro_accuracy']:.4f}, loss {found['fold_loss']:.3f} on {len(scores[-1].labels):,} images"
            + (f"; the others take about {left / 60:.0f} minutes" if left else "")
        )
    return _file(spec, name, trained, scores, dataset, run)


def _train(
    spec: FoldsSpec,
    name: str,
    fold: int,
    dataset: PackedDataset,
    workers: int | None,
    use_gpu: bool | None,
) -> _Trained:
    """Train the model of a fold, go on with it, or find what an interrupted try has trained."""
    former = resumable.tagged(spec.dataset, {FOLDS: name, FOLD: str(fold)})
    progress.say(f"fold {fold} of {spec.folds}" + (" was begun before" if former else ""))
    if not former:
        run_id = trainer.train(
            dataset.info.reference,
            spec.config,
            workers=workers,
            use_gpu=use_gpu,
            register=False,
            lineage={FOLDS: name, FOLD: str(fold)},
            init=spec.init,
            weights=spec.weights,
            log=spec.log,
            subset=Subset(folds=spec.folds, fold=fold),
        ).run_id
    elif former[0].info.status == "FINISHED":
        run_id = former[0].info.run_id
    else:
        run_id = trainer.resume(spec.dataset, former[0].info.run_id, workers=workers, use_gpu=use_gpu).run_id
    found = tracking.find_run(run_id)
    assert found is not None
    return _Trained(run_id, found.info.run_name, found.data.metrics["total_train_seconds"])


def _on_fold(spec: FoldsSpec, fold: int, trained: _Trained, dataset: PackedDataset) -> Scores:
    """Return what a fold's model says of the images of its fold, at temperature 1."""
    best = CheckpointStore(spec.storage, trained.name).best(spec.config.training.chosen_by)
    if best is None:
        raise TrainingError(
            f"the checkpoints of fold {fold} are gone from {spec.storage}: train all folds anew"
        )
    with opened(dataset, Subset(folds=spec.folds, fold=fold)) as part, best.directory() as directory:
        predictor = Predictor.load(directory)
        return score(predictor, match(predictor.card, part, "val"))


def _file(
    spec: FoldsSpec,
    name: str,
    trained: Sequence[_Trained],
    scores: Sequence[Scores],
    dataset: PackedDataset,
    run: tracking.Run,
) -> TrainingResult:
    """Register the ensemble of the folds' models, with the figures of all folds."""
    together = replace(
        scores[0],
        logits=torch.cat([each.logits for each in scores]),
        labels=torch.cat([each.labels for each in scores]),
    )
    enough = len(together.labels) >= LEAST_IMAGES
    fitted = temperature(together.logits, together.labels) if enough else 1.0
    out_of_fold = together.at_temperature(fitted).evaluation()
    figures = over_folds([each.evaluation() for each in scores]) | out_of_fold.metrics("out_of_fold")
    picture = confusion_png(out_of_fold, f"{dataset.info.name}, out of fold")
    run.log_figure(picture, "out_of_fold_confusion_matrix.png")
    run.log_tables({"out_of_fold_confusion_matrix.json": out_of_fold.confusion_table})
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder) / tracking.CHECKPOINT
        network, card = combined([_member(spec, each) for each in trained])
        update: dict[str, Any] = {"temperature": fitted, "learned_splits": Subset().splits}
        checkpoint.save(directory, network, card.model_copy(update=update))
        seconds = {"total_train_seconds": sum(each.seconds for each in trained)}
        lineage = {FOLDS: name, FOLD_RUNS: " ".join(each.run_id for each in trained)}
        if spec.init:
            lineage["init"] = tag_of(registry.resolve(spec.init))
        if spec.weights:
            lineage["weights"] = spec.weights
        result = filed(directory, dataset, run, spec.model, lineage, more=figures | seconds)
    progress.say(
        f"its temperature {fitted:.2f} is that of single models, each on its own fold: the ensemble has learned every "
        f"image of train and val. Its calibration error on test is {result.metrics['test_calibration_error']:.3f}"
    )
    members = [tracking.find_run(each.run_id) for each in trained]
    alone = [member.data.metrics["test_accuracy"] for member in members if member]
    progress.say(
        f"on test, single models have an accuracy of {statistics.mean(alone):.4f} in the mean, the ensemble has "
        f"{result.metrics['test_accuracy']:.4f}"
    )
    progress.say("an ensemble is not retrained: train its folds anew")
    return timed(result, dataset)


def _member(spec: FoldsSpec, trained: _Trained) -> Any:
    best = CheckpointStore(spec.storage, trained.name).best(spec.config.training.chosen_by)
    assert best is not None  # `_on_fold` has read it
    with best.directory() as directory:
        return checkpoint.load(directory)


def over_folds(found: Sequence[Evaluation]) -> dict[str, float]:
    """Return mean, standard deviation and 95% interval of the mean over folds, of accuracy and macro accuracy.

    The trainings share most of their images, so that their figures differ less than those of independent ones would.
    The interval has the variance of Nadeau and Bengio (Inference for the Generalization Error, 2003), which allows for
    that: 1/K + 1/(K-1) of the variance between K folds, and Student's t with K-1 degrees of freedom.
    """
    from scipy.stats import t

    folds = len(found)
    width = t.ppf((1 + CONFIDENCE) / 2, folds - 1) * math.sqrt(1 / folds + 1 / (folds - 1))
    figures: dict[str, float] = {}
    for name in ("fold_accuracy", "fold_macro_accuracy"):
        values = [each.metrics("fold")[name] for each in found]
        mean, spread = statistics.mean(values), statistics.stdev(values)
        figures |= {
            f"{name}_mean": mean,
            f"{name}_std": spread,
            f"{name}_low": max(0.0, mean - width * spread),
            f"{name}_high": min(1.0, mean + width * spread),
        }
    return figures
