"""Prune a registered model: take channels from its network, train it again, and register the smaller network.

result = prune("pets/3", 0.5)
result.trained.version.reference, result.before.macs, result.after.macs

The smaller network learns as any run that starts from a trained model, from the dataset version of its parent.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from raycls import progress, registry
from raycls.data.versions import open_by_fingerprint
from raycls.engines.network_costs import Cost, cost_of
from raycls.models import checkpoint, pruning
from raycls.training import trainer
from raycls.training.filing import TrainingResult
from raycls.training.recipes import configured


@dataclass(frozen=True, kw_only=True)
class Pruned:
    """The smaller version beside its parent. accuracy: the parent's on the test split, 0..1, or None."""

    trained: TrainingResult
    parent: registry.ModelVersion
    accuracy: float | None
    before: Cost
    after: Cost


def prune(
    reference: str,
    share: float,
    *,
    preset: str = "fast",
    settings: Iterable[str] = (),
    workers: int | None = None,
    use_gpu: bool | None = None,
    model: str | None = None,
) -> Pruned:
    """Register the network of a version without `share` (0..1) of its multiply-accumulates, trained again.

    preset, settings: of this training. model: the name to register under, by default the version's. Raises UsageError,
    UnknownModelError, UnknownDatasetError, ConfigError for a network that cannot be pruned, and the errors of `train`.
    """
    pruning.check()
    parent = registry.resolve(reference)
    network, card = checkpoint.load(registry.checkpoint(parent))
    dataset = open_by_fingerprint(*card.learned_from)
    if card.unseen != "val":
        configured(dataset.info, preset, init=card)  # refuses what learned val, before anything is computed
    smaller, described = pruning.pruned(network, card, share=share)
    before, after = (cost_of(each, of, timed=True) for each, of in ((network, card), (smaller, described)))
    progress.say(f"{parent.reference}: {before.macs:,} multiply-accumulates for an image, now {after.macs:,}")
    # The statistics of batch norms were those of all channels.
    settings = ["training.frozen_norms=false", *settings]
    config = configured(dataset.info, preset, settings=settings, init=described, use_gpu=use_gpu)
    progress.say("  ".join(f"{key}={value}" for key, value in config.flat().items()))
    with tempfile.TemporaryDirectory() as folder:
        start = Path(folder) / "pruned"
        checkpoint.save(start, smaller, described)
        trained = trainer.train(
            dataset.info.reference,
            config,
            workers=workers,
            use_gpu=use_gpu,
            model=model or parent.name,
            lineage={"pruned": f"{before.macs} to {after.macs} multiply-accumulates"},
            init=parent.reference,
            pruned=start,
        )
    return Pruned(
        trained=trained,
        parent=parent,
        accuracy=card.metrics.get("test_accuracy"),
        before=before,
        after=after,
    )
