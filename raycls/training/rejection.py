"""Find the lowest confidence above which a version's answers are right as often as somebody wishes.

    rejection, few = find(scores, 0.98, engine="torch", by_class=True)       # Scores of the split val
    rejection.threshold, rejection.coverage

A threshold that merely reaches the precision on these images would miss it on others about half of the time. So it is
tested: the answers with at least this confidence are right that often with a certainty of 95% (Clopper and Pearson's
bound, which also holds where the chance differs from image to image: Hoeffding 1956). To try many thresholds on the
same images does not spoil the bound, because they are tested in a fixed order, from strict to lenient, and the first
failure ends the sequence (Angelopoulos et al., Learn then Test, arXiv:2110.01052, section 3.2). There are two sequences
with half of the error each: one begins at the fewest images that can pass, where one wrong answer ends it, and one in
the middle between these and all.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import numpy as np

from raycls import registry
from raycls.config import Engine
from raycls.data.versions import open_by_fingerprint
from raycls.engines.examples import match
from raycls.engines.predictor import Predictor
from raycls.engines.rejection import Rejection
from raycls.errors import UsageError
from raycls.training.evaluation import Scores, score

ERROR = 0.05  # the chance that the precision on other images is lower than wished, although the tests passed
SEQUENCES = 2
STEP = 1.1  # from one test of a sequence to the next, the images grow by this factor


def least_images(precision: float) -> int:
    """Return how many images a test takes that passes with no wrong answer."""
    return math.ceil(math.log(ERROR / SEQUENCES) / math.log(precision))


def find(
    scores: Scores, precision: float, *, engine: Engine, by_class: bool = False
) -> tuple[Rejection, dict[str, int]]:
    """Return the thresholds for a precision (0..1, without both ends): of all answers, or also of each predicted class.

    engine: what computed the scores. The second value is for by_class: the classes with too few images for a threshold
    of their own, with their images. The common threshold holds for them. Raises UsageError where there are too few
    images at all, or where no confidence reaches the precision.
    """
    if not 0 < precision < 1:
        raise UsageError(f"a precision is between 0 and 1, like 0.98, and not {precision:g}")
    confidence, right = scores.answers()
    where = f"{scores.examples.dataset}/{scores.examples.split}"
    least = least_images(precision)
    if len(right) < least:
        raise UsageError(
            f"a threshold for a precision of {precision:.2%} takes {least:,} images, and {where} has {len(right):,}: "
            "ask for a lower --precision, or add images"
        )
    common = lowest_confidence(confidence, right, precision)
    own: dict[str, float | None] = {}
    few: dict[str, int] = {}
    predicted = scores.predicted.numpy()
    for index, name in enumerate(scores.examples.classes if by_class else ()):
        of_class = predicted == index
        if of_class.sum() < least:
            few[name] = int(of_class.sum())
        else:
            own[name] = lowest_confidence(confidence[of_class], right[of_class], precision)
    if common is None and not any(limit is not None for limit in own.values()):
        surest = np.argsort(-confidence, kind="stable")[:least]
        raise UsageError(
            f"no confidence reaches a precision of {precision:.2%} with a certainty of {1 - ERROR:.0%}: of the "
            f"{least:,} surest answers on {where}, {right[surest].sum():,} are right, and of all {len(right):,}, "
            f"{right.sum():,}: ask for a lower --precision, or train a better model"
        )
    found = Rejection(
        precision=precision,
        threshold=common,
        by_class=own,
        engine=engine,
        dataset=scores.examples.dataset,
        images=len(right),
        answered=0,
        right=0,
    )
    counted = kept(scores, found)
    return found.model_copy(update={"answered": counted.answered, "right": counted.right}), few


def fitted(
    version: registry.ModelVersion, precision: float, *, by_class: bool = False
) -> tuple[Rejection, dict[str, int]]:
    """Return what `find` does, on the split `val` of a version's dataset, by the engine that serves it.

    The best epoch and the temperature were chosen on `val` too, which makes its figures a little too good: `raycls
    evaluate` tells those of `test`. Raises as `find`, UsageError for a version that learned `val`, and
    UnknownDatasetError where the dataset is not here.
    """
    engine = registry.engine_to_serve(version)
    predictor = Predictor.load(registry.checkpoint(version), engine=engine)
    if predictor.card.unseen != "val":
        raise UsageError(
            f"{version.reference} learned the split val, on which it is too sure of itself to find a threshold: take a "
            "version that was trained without --folds and --refit"
        )
    dataset = open_by_fingerprint(*predictor.card.learned_from)
    scores = score(predictor, match(predictor.card, dataset, "val"))
    return find(scores, precision, engine=engine, by_class=by_class)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """What thresholds do on a split: of its images, how many are answered, and how many of these answers are right."""

    wished: float
    images: int
    answered: int
    right: int

    @property
    def told(self) -> str:
        """Return one sentence, with the 95% interval of the precision (Wilson's)."""
        from scipy.stats import binomtest

        said = f"answered, not rejected: {self.answered:,} of {self.images:,} images"
        if not self.answered:
            return said
        low, high = binomtest(self.right, self.answered).proportion_ci(0.95, method="wilson")
        return (
            f"{said} ({self.answered / self.images:.1%}), of them right {self.right / self.answered:.2%} ({low:.2%} to "
            f"{high:.2%}); wished {self.wished:.2%}"
        )

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def kept(scores: Scores, rejection: Rejection) -> Kept:
    """Return what a version's thresholds do on a split. scores: the version's."""
    confidence, right = scores.answers()
    answered = confidence >= rejection.limits(scores.examples.classes)[scores.predicted.numpy()]
    return Kept(
        wished=rejection.precision,
        images=len(right),
        answered=int(answered.sum()),
        right=int(right[answered].sum()),
    )


def lowest_confidence(confidence: np.ndarray, right: np.ndarray, precision: float) -> float | None:
    """Return the lowest confidence that passes its test; None where none does, or where there are too few images.

    confidence: float N. right: bool N.

    Which thresholds are tested depends on the confidences alone, and not on what is right.
    """
    from scipy.stats import binom

    order = np.argsort(-confidence, kind="stable")
    falling, right_so_far = confidence[order], np.cumsum(right[order])
    least, total = least_images(precision), len(right)

    def passes(count: int) -> bool:
        """Whether so many right answers among the surest would be rare if their precision were only the wished one."""
        chance = binom.sf(right_so_far[count - 1] - 1, count, precision)
        return bool(chance <= ERROR / SEQUENCES)

    best = 0
    if total < least:
        return None
    for begin in np.geomspace(least, total, SEQUENCES + 1)[:-1].astype(int):
        count = _with_equals(falling, int(begin))
        while passes(count):
            best = max(best, count)
            if count == total:
                break
            count = _with_equals(falling, min(total, math.ceil(count * STEP)))
    return float(falling[best - 1]) if best else None


def _with_equals(falling: np.ndarray, count: int) -> int:
    """Return how many images have at least the confidence of the surest one of this number."""
    return int(np.searchsorted(-falling, -falling[count - 1], side="right"))
