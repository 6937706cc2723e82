"""A comparison of two versions in detail: also the pictures that they see differently, and whom they confuse.

found = compare_in_detail(registry.resolve("pets/7"), registry.champion("pets"))
found.comparison.verdict
found.confusions[0]      # cat taken for dog: 14 by the champion, 3 by the challenger
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from raycls.metrics import confusion
from raycls.registry.compare import Comparison, judged
from raycls.registry.measure import Answers, answers
from raycls.registry.model_version import ModelVersion
from raycls.registry.policy import PromotionPolicy

PICTURES, CONFUSIONS = 24, 12


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A picture on which the two differ. row: its index in the split. The classes are names."""

    row: int
    label: str
    champion: str
    challenger: str
    champion_confidence: float
    challenger_confidence: float


@dataclass(frozen=True, kw_only=True)
class Confusion:
    """How often the two take pictures of a class for another one."""

    label: str
    taken_for: str
    champion: int
    challenger: int


@dataclass(frozen=True, kw_only=True)
class DetailedComparison:
    """apart: how many pictures the two class differently; `pictures` has some of them."""

    comparison: Comparison
    apart: int
    pictures: list[Picture]
    confusions: list[Confusion]

    def as_json(self) -> dict[str, Any]:
        """Return all of it as one JSON document."""
        return {
            **self.comparison.as_json(),
            "apart": self.apart,
            "pictures_apart": [asdict(picture) for picture in self.pictures],
            "confusions_apart": [asdict(each) for each in self.confusions],
        }


def compare_in_detail(
    challenger: ModelVersion, champion: ModelVersion, policy: PromotionPolicy = PromotionPolicy()
) -> DetailedComparison:
    """Measure both versions on the same pictures and judge them. Raises as `raycls.registry.measure.answers`."""
    found = answers(challenger, champion)
    apart, pictures = pictures_apart(found, PICTURES)
    return DetailedComparison(
        comparison=judged(found, challenger.reference, champion.reference, policy),
        apart=apart,
        pictures=pictures,
        confusions=confusions_apart(found, CONFUSIONS),
    )


def pictures_apart(found: Answers, most: int) -> tuple[int, list[Picture]]:
    """Return how many pictures the two class differently, and at most `most` of them: where one is right first, and
    among these the surest answers."""
    old, new = found.champion.argmax(1), found.challenger.argmax(1)
    apart = np.flatnonzero(old != new)
    one_is_right = ((old == found.labels) | (new == found.labels))[apart]
    surest = (found.champion.max(1) + found.challenger.max(1))[apart]
    chosen = apart[np.lexsort((-surest, ~one_is_right))][:most]
    return len(apart), [
        Picture(
            row=int(found.rows[i]),
            label=found.classes[found.labels[i]],
            champion=found.classes[old[i]],
            challenger=found.classes[new[i]],
            champion_confidence=float(found.champion[i, old[i]]),
            challenger_confidence=float(found.challenger[i, new[i]]),
        )
        for i in chosen
    ]


def confusions_apart(found: Answers, most: int) -> list[Confusion]:
    """Return at most `most` pairs of classes that the two do not confuse equally often, the greatest change first."""
    count = len(found.classes)
    old, new = (
        confusion(found.labels, probabilities.argmax(1), count)
        for probabilities in (found.champion, found.challenger)
    )
    change = np.abs(new - old)
    np.fill_diagonal(change, 0)
    order = np.argsort(-change, axis=None, kind="stable")[:most]
    pairs = [divmod(int(place), count) for place in order if change.flat[place]]
    return [
        Confusion(
            label=found.classes[label],
            taken_for=found.classes[other],
            champion=int(old[label, other]),
            challenger=int(new[label, other]),
        )
        for label, other in pairs
    ]
