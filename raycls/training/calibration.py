"""Calibrated confidences: one temperature, fitted on the validation split, by which all logits are divided.

    predictor, found = calibrated(predictor, open_dataset("pets"))
    predictor.card.temperature, found["val_calibration_error"], found["val_calibration_error_before"]

Label smoothing makes a network less confident than it is accurate, and long training makes it more confident. Dividing
its logits by a fitted temperature corrects both and changes no answer (Guo et al., On Calibration of Modern Neural
Networks, arXiv:1706.04599). A model that learned `val` is far surer there than on new images: it keeps the temperature
of its card. This module knows a predictor and a dataset, not training runs.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from raycls import progress
from raycls.data.packed import PackedDataset
from raycls.engines.predictor import Predictor
from raycls.models.card import SEEN
from raycls.training.evaluation import match, score

# A parameter that is fitted by maximum likelihood on N images costs 1/(2N) nats of log loss on other images. With 50
# images, that is 0.01. Label smoothing of 0.2 costs ten times as much.
LEAST_IMAGES = 50
RANGE = 0.05, 20.0  # smallest and largest temperature


def temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature with the lowest log loss: float32 N×C logits are divided by it. labels: int64 N.

    A share of 1/(N+2) of each label is spread over all classes, as if about one more image were wrong. Without that,
    the temperature would be 0 where all answers are right (Platt, Probabilistic Outputs for Support Vector Machines,
    1999).
    """
    from scipy.optimize import minimize_scalar

    logits, smoothing = logits.double(), 1 / (len(labels) + 2)

    def loss(log_temperature: float) -> float:
        scaled = logits / math.exp(log_temperature)
        return F.cross_entropy(scaled, labels, label_smoothing=smoothing).item()

    low, high = map(math.log, RANGE)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded", options={"xatol": 1e-4})
    return math.exp(found.x)


def calibrated(predictor: Predictor, dataset: PackedDataset) -> tuple[Predictor, dict[str, float]]:
    """Return the predictor with a temperature that is fitted on the dataset's split `val`, and metrics of that split.

    The metrics are those of `Evaluation.metrics` with the new temperature, on images of the whole size. The temperature
    fits these images, so their calibration error is too low by a little: that of `test` is the one to tell. With fewer
    than LEAST_IMAGES images, the temperature is 1. A model that learned `val` comes back as
    it is, with `SEEN` alone.
    """
    if "val" in predictor.card.learned_splits:
        progress.say(
            f"confidences are not calibrated on val: the temperature stays {predictor.card.temperature:.2f}"
        )
        seen = score(predictor, match(predictor.card, dataset, "val")).evaluation()
        return predictor, {SEEN: seen.accuracy}
    raw = predictor.at_temperature(1.0)
    scores = score(raw, match(raw.card, dataset, "val"))
    if len(scores.labels) < LEAST_IMAGES:
        progress.say(
            f"confidences are not calibrated: that takes {LEAST_IMAGES} validation images, there are "
            f"{len(scores.labels)}"
        )
        fitted = 1.0
    else:
        fitted = temperature(scores.logits, scores.labels)
    found = scores.at_temperature(fitted).evaluation()
    if fitted != 1:
        progress.say(
            f"confidences are calibrated with temperature {fitted:.2f}: their error on val was "
            f"{found.calibration_error_before:.3f} and is {found.calibration_error:.3f}"
        )
    return raw.at_temperature(fitted), found.metrics("val")
