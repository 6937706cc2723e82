"""Say whether the challenger is better than the champion, at any time, from reviewed answers.

    decide(Tally.paired(wins=95, losses=61, ties=844))         # shadow: both versions answered the same images
    matching = Matching.of_share(0.1)                          # split: each version answered its own images
    matching.add("challenger", right=True)
    decide(matching.tally).decision                            # "better", "worse" or "not_yet"

A usual test is valid for one look, at a number of answers that was fixed before. This one may be looked at after every
answer: the chance that it ever decides although both versions are equally accurate is at most `ALPHA`. That holds for
any number of answers, without an approximation.

Method: betting on the mean of a bounded variable (Waudby-Smith & Ramdas, arXiv:2010.09686, with a fixed mixture of
bets). The variable is the difference of two answers to one image, or of two groups of answers. If the mean is m, the
product of 1 + b·(difference − m) is a fair game for every bet b. By Ville's inequality, its capital ever reaches
1 / ALPHA with a chance of at most ALPHA. The values of m whose capital is smaller form the confidence interval.

It does not know who sent an image. Answers that depend on each other, like many copies of one image, count as
independent. Answers must be chosen for review without a look at which version gave them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from scipy.optimize import brentq
from scipy.special import logsumexp

Arm = Literal["champion", "challenger"]
Decision = Literal["better", "worse", "not_yet"]

ALPHA = 0.05
# A bet of difference / variance grows fastest (Kelly). Two thirds of the capital are on 0.12, the bet for two points at
# 90% accuracy. The other bets find larger and smaller differences. Bets below 0.5 keep the capital positive.
BETS = np.array([0.015, 0.03, 0.06, 0.12, 0.24, 0.48])
WEIGHTS = np.array([1, 1, 3, 20, 4, 1]) / 30
LARGEST_GROUP = 20  # answers of the larger share beside one of the smaller: more would add no precision


@dataclass(frozen=True)
class Verdict:
    """What the answers so far say. difference, low, high: challenger's accuracy minus champion's, in -1..1.

    low and high: a confidence interval that is valid at every look at once.
    """

    decision: Decision
    difference: float
    low: float
    high: float


@dataclass(frozen=True)
class Tally:
    """How often each difference (-1..1) of challenger and champion was observed. Tallies can be added."""

    counts: Mapping[float, int] = field(default_factory=dict)

    @classmethod
    def paired(cls, *, wins: int, losses: int, ties: int) -> Tally:
        """Return the tally of images that both answered. A win: only the challenger was right. A tie: both or none."""
        return cls({-1.0: losses, 0.0: ties, 1.0: wins})

    def __add__(self, other: Tally) -> Tally:
        values = sorted({*self.counts, *other.counts})
        return Tally({value: self.counts.get(value, 0) + other.counts.get(value, 0) for value in values})


@dataclass
class Matching:
    """Groups the answers of two versions that answered different images, in the order of their reviews.

    A group has `champion` answers of the champion and `challenger` answers of the challenger, and is one observation:
    the difference of their accuracies. Answers of the version that is ahead wait for the other.
    """

    champion: int
    challenger: int
    tally: Tally = field(default_factory=Tally)
    waiting: dict[Arm, list[bool]] = field(default_factory=lambda: {"champion": [], "challenger": []})

    @classmethod
    def of_share(cls, share: float) -> Matching:
        """Return an empty matching for a challenger that answers this share (0..1) of the reviewed images.

        With a share of 1 the champion answers nothing, and no group is ever full.
        """
        if share <= 0.5:
            return cls(champion=min(round((1 - share) / share), LARGEST_GROUP), challenger=1)
        rest = max(1 - share, share / LARGEST_GROUP)
        return cls(champion=1, challenger=round(share / rest))

    def add(self, arm: Arm, *, right: bool) -> None:
        """Add one reviewed answer."""
        self.waiting[arm].append(right)
        self._match()

    def _match(self) -> None:
        champion, challenger = self.waiting["champion"], self.waiting["challenger"]
        while len(champion) >= self.champion and len(challenger) >= self.challenger:
            gain = sum(challenger[: self.challenger]) / self.challenger
            loss = sum(champion[: self.champion]) / self.champion
            self.tally += Tally({round(gain - loss, 12): 1})
            del champion[: self.champion], challenger[: self.challenger]


def log_capital(values: np.ndarray, counts: np.ndarray, mean: float = 0.0) -> np.ndarray:
    """Return the logarithm of the capital of the bets against `mean`, for each row of counts: float64 …

    values: float64 M, the differences that occur. counts: …×M, how often each was observed.
    """
    bets, weights = np.concatenate([BETS, -BETS]), np.concatenate([WEIGHTS, WEIGHTS]) / 2
    growth = np.log1p(np.outer(values - mean, bets))
    return logsumexp(counts @ growth, axis=-1, b=weights)


def decide(tally: Tally, alpha: float = ALPHA) -> Verdict:
    """Return the verdict after these answers. The first decision counts: a later look may say "not_yet" again."""
    values, counts = np.array(list(tally.counts)), np.array(list(tally.counts.values()), float)
    if not counts.sum():
        return Verdict("not_yet", 0.0, -1.0, 1.0)
    difference = float(values @ counts / counts.sum())

    def above(mean: float) -> float:
        return float(log_capital(values, counts, mean)) + math.log(alpha)

    # At the observed mean no bet has gained, and the capital is convex in the mean. So there is one root on each side.
    low = brentq(above, -1.0, difference) if above(-1.0) > 0 else -1.0
    high = brentq(above, difference, 1.0) if above(1.0) > 0 else 1.0
    decision: Decision = "better" if low > 0 else "worse" if high < 0 else "not_yet"
    return Verdict(decision, difference, low, high)
