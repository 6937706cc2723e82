"""Whether a new version is better than the champion, by the accuracy on the images that only promotion looks at.

    if better(version, registry.champion(version.name)): …

Two versions of the same dataset are compared by METRIC, which they were registered with. Otherwise both are scored on
the split `gate` of the new version's dataset. Training and tuning never read that split. The test split has no part in
it.
"""

from __future__ import annotations

import numpy as np

from raycls import progress, registry
from raycls.data.versions import open_by_fingerprint
from raycls.engines.predictor import Predictor
from raycls.registry import ModelVersion
from raycls.training.evaluation import match, score

METRIC = "gate_accuracy"


def better(version: ModelVersion, champion: ModelVersion | None) -> bool:
    """Return whether the version may replace the champion, and say both figures.

    True where there is no champion, or where the version is the champion. False where the two cannot be compared.
    """
    if champion and champion.reference == version.reference:
        return True
    if champion is None:
        progress.say(f"{version.reference} is the first champion")
        return True
    try:
        mine, theirs, where = _scores(version, champion)
    except Exception as error:  # a network's own code may raise anything
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        progress.say(
            f"{champion.reference} stays champion: it cannot be compared with {version.reference} ({reason}); `raycls "
            f"promote {version.name} {version.version}` promotes it"
        )
        return False
    figures = f"accuracy {mine:.4f} against {theirs:.4f} {where}"
    if mine > theirs:
        progress.say(f"{version.reference} replaces champion {champion.reference}: {figures}")
        return True
    progress.say(f"{champion.reference} stays champion, {version.reference} is not better: {figures}")
    return False


def _scores(version: ModelVersion, champion: ModelVersion) -> tuple[float, float, str]:
    """Return the accuracy of both on the same images of the version's dataset, and which images those were.

    The images are those of the classes that both know, by name. Raises RayclsError where that is not possible.
    """
    if version.fingerprint == champion.fingerprint and all(
        METRIC in each.metrics for each in (version, champion)
    ):
        return version.metrics[METRIC], champion.metrics[METRIC], "on the split gate"
    mine, theirs = (Predictor.load(registry.checkpoint(each)) for each in (version, champion))
    dataset = open_by_fingerprint(*mine.card.learned_from)
    own, other = (match(each.card, dataset, dataset.gate) for each in (mine, theirs))
    own, other = own.only(np.isin(own.rows, other.rows)), other.only(np.isin(other.rows, own.rows))
    accuracy, others = (
        score(each, examples).evaluation().accuracy for each, examples in ((mine, own), (theirs, other))
    )
    return accuracy, others, f"on {len(own)} images of {dataset.info.reference}/{dataset.gate}"
