"""Which version of an experiment is right more often, by what people have reviewed.

    judged(record).verdict.decision     # "better", "worse" or "not_yet", valid at every look

In a split, clients say what was right for answers of both versions (raycls/lifecycle/feedback.py); accepted feedback
counts. In a shadow, both versions answer the same pictures, and those on which they disagree wait in the review queue;
the label that a reviewer accepts says which of the two was right. The difference is then one among disagreements.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from raycls.lifecycle.experiment import Record
from raycls.lifecycle.feedback import Feedback
from raycls.lifecycle.sequential import Arm, Matching, Tally, Verdict, decide
from raycls.lifecycle.uploads import Uploads
from raycls.models.card import load_card
from raycls.registry import checkpoint, resolve


@dataclass(frozen=True)
class Judged:
    """The reviewed answers of each version, how many of them were right, and what follows from them."""

    reviewed: dict[Arm, int]
    right: dict[Arm, int]
    verdict: Verdict

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def judged(record: Record, *, feedback: Feedback | None = None, uploads: Uploads | None = None) -> Judged:
    """Return what is known now. Raises DataError where the reviews cannot be read."""
    if record.experiment.mode == "split":
        return _of_split(record, feedback or Feedback.of_process())
    return _of_shadow(record, uploads or Uploads.of_process())


def _of_split(record: Record, feedback: Feedback) -> Judged:
    experiment = record.experiment
    since = datetime.fromisoformat(experiment.started).timestamp()
    until = (
        datetime.fromisoformat(record.ended).timestamp() + 1 if record.ended else math.inf
    )  # whole seconds
    matching = Matching.of_share(experiment.share)
    reviewed: dict[Arm, int] = {"champion": 0, "challenger": 0}
    right: dict[Arm, int] = {"champion": 0, "challenger": 0}
    name, _, champion = experiment.champion.partition("/")
    arms: dict[str, Arm] = {champion: "champion", experiment.challenger.partition("/")[2]: "challenger"}
    for each in feedback.of(name, state="accepted"):
        arm = arms.get(each.claims.version)
        if arm is None or not since <= each.claims.time <= until:
            continue
        reviewed[arm] += 1
        right[arm] += each.right
        matching.add(arm, right=each.right)
    return Judged(reviewed, right, decide(matching.tally))


def _of_shadow(record: Record, uploads: Uploads) -> Judged:
    name = load_card(checkpoint(resolve(record.experiment.champion))).dataset
    found = [
        (each.label, each.prediction["champion"], each.prediction["challenger"])
        for each in uploads.of(name)
        if each.state == "accepted" and each.prediction.get("experiment") == record.experiment.id
    ]
    losses = sum(label == champion for label, champion, _ in found)
    wins = sum(label == challenger for label, _, challenger in found)
    verdict = decide(Tally.paired(wins=wins, losses=losses, ties=len(found) - wins - losses))
    count = len(found)
    return Judged({"champion": count, "challenger": count}, {"champion": losses, "challenger": wins}, verdict)
