"""Whether a new version is better than the champion, by validation accuracy.

    if better(version, registry.champion(version.name)): …

Two versions of the same dataset are compared by the figures that they were registered with. Where the champion was
trained on another dataset, both are scored on the validation split of the new version's dataset. The test split has no
part in it.
"""

from __future__ import annotations

import numpy as np

from raycls import progress, registry
from raycls.data.packed import open_dataset
from raycls.engines.predictor import Predictor
from raycls.errors import DataError
from raycls.registry import ModelVersion
from raycls.training.evaluation import match, score

METRIC = "val_accuracy"


def better(version: ModelVersion, champion: ModelVersion | None) -> bool:
    """Return whether the version may replace the champion, and say both figures.

    True where there is no champion, or where the version is the champion. False where the two cannot be compared.
    """
    if champion and champion.reference == version.reference:
        return True
    if champion is None:
        progress.say(f"{version.reference} is the first champion: {METRIC} {version.metrics[METRIC]:.4f}")
        return True
    if champion.fingerprint == version.fingerprint:
        mine, theirs, where = version.metrics[METRIC], champion.metrics[METRIC], ""
    else:
        try:
            mine, theirs, where = _scored_now(version, champion)
        except Exception as error:  # a network's own code may raise anything
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            progress.say(
                f"{champion.reference} stays champion: it was trained on other data than {version.reference}, and the "
                f"two cannot be compared ({reason}); `raycls promote {version.name} {version.version}` promotes it"
            )
            return False
    figures = f"{METRIC} {mine:.4f} against {theirs:.4f}{where}"
    if mine > theirs:
        progress.say(f"{version.reference} replaces champion {champion.reference}: {figures}")
        return True
    progress.say(f"{champion.reference} stays champion, {version.reference} is not better: {figures}")
    return False


def _scored_now(version: ModelVersion, champion: ModelVersion) -> tuple[float, float, str]:
    """Return the accuracy of both on the same validation images of the version's dataset, and where that was.

    The images are those of the classes that both know, by name. Raises RayclsError where that is not possible.
    """
    mine, theirs = (Predictor.load(registry.checkpoint(each)) for each in (version, champion))
    dataset = open_dataset(mine.card.dataset)
    if dataset.manifest.fingerprint != version.fingerprint:
        raise DataError(f"dataset {dataset.manifest.name} has changed since {version.reference} was trained")
    own, other = match(mine.card, dataset, "val"), match(theirs.card, dataset, "val")
    own, other = own.only(np.isin(own.rows, other.rows)), other.only(np.isin(other.rows, own.rows))
    accuracy, others = (
        score(each, examples).evaluation().accuracy for each, examples in ((mine, own), (theirs, other))
    )
    return accuracy, others, f" on {len(own)} validation images of {dataset.manifest.name}"
