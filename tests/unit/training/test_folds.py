"""The figures over folds."""

from __future__ import annotations

import numpy as np
import pytest

from raycls.training.evaluation import Evaluation
from raycls.training.folds import over_folds


def _evaluation(right: int) -> Evaluation:
    confusion = np.array([[right, 100 - right], [0, 100]])
    return Evaluation(
        classes=("a", "b"),
        confusion=confusion,
        loss=0.3,
        calibration_error=0.0,
        calibration_interval=(0.0, 0.0),
        calibration_error_before=0.0,
    )


def test_the_interval_allows_for_trainings_that_share_images() -> None:
    found = over_folds([_evaluation(right) for right in (80, 84, 88, 92, 96)])
    assert found["fold_accuracy_mean"] == pytest.approx(0.94)
    assert found["fold_accuracy_std"] == pytest.approx(0.0316228, abs=1e-6)
    # Student's t with 4 degrees of freedom is 2.7764, and the variance has the factor 1/5 + 1/4.
    half = 2.7764 * 0.0316228 * 0.45**0.5
    assert found["fold_accuracy_low"] == pytest.approx(0.94 - half, abs=1e-4)
    assert found["fold_accuracy_high"] == pytest.approx(0.94 + half, abs=1e-4)


def test_equal_folds_have_no_spread() -> None:
    found = over_folds([_evaluation(100)] * 3)
    assert found["fold_macro_accuracy_std"] == 0
    assert found["fold_accuracy_low"] == found["fold_accuracy_high"] == 1
