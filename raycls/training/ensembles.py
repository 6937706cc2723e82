"""Make one version of several: the mean of their answers, served, promoted and exported as any other version.

result = ensemble(["pets/3", "pets/5", "pets/7"], "pets")
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

from raycls import progress, registry, tracking
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_by_fingerprint
from raycls.errors import UsageError
from raycls.models import checkpoint
from raycls.models.card import ENSEMBLE
from raycls.models.ensemble import combined
from raycls.registry import choose_engine
from raycls.training.filing import TrainingResult, filed


def ensemble(references: Sequence[str], model: str | None = None) -> TrainingResult:
    """Register the ensemble of at least two versions as the next version of `model`, by default of the first one's.

    It is calibrated and measured on the newest dataset version that one of them learned from, and its engines are
    timed. Raises UsageError, UnknownModelError, and ConfigError for versions that do not fit together.
    """
    members = versions_of(references, "an ensemble")
    named = [member.reference for member in members]
    model = registry.check_name(model or members[0].name)
    loaded = [checkpoint.load(registry.checkpoint(member)) for member in members]
    network, card = combined(loaded)
    learned = max((card.learned_from for _, card in loaded), key=lambda each: each[2])
    if strangers := {each.dataset for _, each in loaded} - {learned[0]}:
        raise UsageError(
            f"these learned from different datasets: {', '.join(sorted({learned[0], *strangers}))}"
        )
    dataset = open_by_fingerprint(*learned)
    card = card.model_copy(
        update={"dataset_version": dataset.info.version, "dataset_fingerprint": dataset.info.fingerprint}
    )
    lineage = {ENSEMBLE: ", ".join(f"{each.reference} sha256:{each.sha256}" for each in members)}
    name = f"{dataset.info.name}-ensemble-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    tags = {
        "kind": ENSEMBLE,
        "dataset_version": str(dataset.info.version),
        "dataset_fingerprint": dataset.info.fingerprint,
        **lineage,
    }
    with tempfile.TemporaryDirectory() as folder, tracking.run(dataset.info.name, name, tags=tags) as run:
        directory = Path(folder) / tracking.CHECKPOINT
        checkpoint.save(directory, network, card)
        run.log_params({"members": ", ".join(named)})
        run.log_dataset(dataset.info)
        result = filed(directory, dataset, run, model, lineage, more={})
    progress.say("an ensemble is not retrained: train its members anew, and make it again")
    return timed(result, dataset, members)


def versions_of(references: Sequence[str], what: str) -> list[registry.ModelVersion]:
    """Return the versions, at least two. Raises UsageError, which says what was to be made of them."""
    found = [registry.resolve(reference) for reference in references]
    named = [version.reference for version in found]
    if len(set(named)) < len(named):
        raise UsageError(f"{', '.join(named)}: name each version once")
    if len(named) < 2:
        raise UsageError(f"{what} has at least two members: name two versions or more, like pets/3 pets/5")
    return found


def timed(
    result: TrainingResult, dataset: PackedDataset, members: Sequence[registry.ModelVersion] = ()
) -> TrainingResult:
    """Store how long a forward pass takes, and say it, and how long the members' take, where that is known."""
    assert result.version is not None
    version = choose_engine(result.version, dataset)
    for each in (*members, version):
        one = [timing["one_ms"] for timing in each.engine_timings if timing["engine"] == each.engine]
        progress.say(f"{each.reference}: " + (f"{one[0]:.2f} ms for one image" if one else "never timed"))
    return TrainingResult(
        run_id=result.run_id, metrics=result.metrics, evaluation=result.evaluation, version=version
    )
