"""Train a version again on train and val together, with its settings and its number of epochs.

    result = refit("pets/3")        # the next version of pets

`val` has done its work once the settings, the number of epochs and the temperature are found. The new model learns from
it too, and keeps the temperature. No image of `val` says any more how good the model is: promotion compares on `gate`,
which stays unseen, and `test` has the figures.
"""

from __future__ import annotations

from raycls import progress, registry
from raycls.config import Config, override
from raycls.data.packed import PackedDataset
from raycls.data.subsets import Subset
from raycls.errors import UsageError
from raycls.models.card import ENSEMBLE, load_card
from raycls.registry import ModelVersion
from raycls.tracking import resumable
from raycls.tracking.resumable import REFIT, SOUP, TrainingSpec
from raycls.training import trainer
from raycls.training.filing import TrainingResult


def refit(
    reference: str,
    *,
    dataset_name: str | None = None,
    workers: int | None = None,
    use_gpu: bool | None = None,
    model: str | None = None,
) -> TrainingResult:
    """Train the settings of a version anew on train and val, keep the last epoch, and register it.

    reference: NAME/VERSION, or NAME, its champion. dataset_name: of the dataset that it must have learned from. model:
    the registered name, by default the version's. Raises UsageError for a version that cannot be trained again so, and
    as `trainer.train`.
    """
    version = registry.resolve(reference)
    card = load_card(registry.checkpoint(version))
    if "val" in card.learned_splits:
        raise UsageError(f"{version.reference} has learned val already")
    if card.network == ENSEMBLE:
        raise UsageError(f"{version.reference} is an ensemble: refit its members, and make it again")
    if SOUP in version.tags:
        raise UsageError(
            f"{version.reference} is a mean of several models, and no training: refit one of them"
        )
    if dataset_name and dataset_name != card.dataset:
        raise UsageError(f"{version.reference} learned from {card.dataset}, not from {dataset_name}")
    if "pruned" in version.tags:
        raise UsageError(
            f"{version.reference} began with channels of another version: refit that one, and prune what comes of it"
        )
    spec = resumable.spec_of(TrainingSpec, version.run_id)
    config = refitted(spec.config, int(card.metrics["epoch"]))
    dataset = spec.open_dataset()
    without_gate(dataset)
    counts = dataset.info.counts
    progress.say(
        f"{version.reference} is trained again on train and val, {counts['train'] + counts['val']:,} images: "
        f"{config.training.epochs} epochs, of which the last one is kept; its temperature {card.temperature:.2f} stays"
    )
    return trainer.train(
        dataset.info.reference,
        config,
        workers=workers or spec.workers,
        use_gpu=use_gpu,
        model=model or version.name,
        lineage={REFIT: tag_of(version)},
        init=spec.init,
        weights=spec.weights,
        subset=Subset(),
        temperature=card.temperature,
    )


def refitted(config: Config, kept: int) -> Config:
    """Return the settings for training again. kept: the earlier run's best epoch, after which patience ended it.

    Without patience, the learning rate has come down at the last epoch, to which the refit goes as well. Raises
    UsageError for a probe.
    """
    if config.training.probe:
        raise UsageError(
            "a probe chooses the strength of its regularisation on val, which it cannot do once it learns val: refit a "
            "model that was fine-tuned"
        )
    epochs = kept if config.training.patience else config.training.epochs
    frozen = min(config.training.frozen_epochs, epochs - 1)
    return override(
        config,
        [
            f"training.epochs={epochs}",
            f"training.frozen_epochs={frozen}",
            "training.patience=0",
        ],
    )


def tag_of(version: ModelVersion) -> str:
    """Return the value of the tag `REFIT` that names a version."""
    return f"{version.reference} sha256:{version.sha256}"


def before_refit(version: ModelVersion) -> ModelVersion:
    """Return the version that a refitted one was trained again from, or the version itself if it is none.

    Its weights are those to train on from: `val` can still judge what comes of them.
    """
    former = version.tags.get(REFIT, "").partition(" ")[0]
    return registry.resolve(former) if former else version


def without_gate(dataset: PackedDataset) -> None:
    """Say that a model that learns val cannot be compared with a champion, where the dataset has no split `gate`."""
    if dataset.gate != "gate":
        progress.say(
            f"{dataset.info.reference} has no split gate: a model that learned val cannot be compared with a champion "
            "there"
        )
