"""Each verdict from the curves that deserve it, with the figures it comes from in its sentence."""

from __future__ import annotations

import math

import pytest

from raycls.training.curves import Fit, diagnose, warnings


def _history(
    train_loss: list[float], val_loss: list[float], val_accuracy: list[float], lr: list[float] | None = None
) -> list[dict[str, float]]:
    rows = zip(train_loss, val_loss, val_accuracy, strict=True)
    rates = [{"lr": rate} for rate in lr] if lr else [{}] * len(train_loss)
    return [
        {"epoch": i + 1, "train_loss": t, "val_loss": v, "val_accuracy": a, **rates[i]}
        for i, (t, v, a) in enumerate(rows)
    ]


def _fit(train: float, val: float, images: int = 5000) -> Fit:
    return Fit(
        epoch=8, train_accuracy=train, train_loss=0.3, val_accuracy=val, val_loss=0.4, val_images=images, classes=10
    )  # fmt: skip


SETTLED = _history([2.0, 1.2, 0.9, 0.8, 0.75, 0.74, 0.73, 0.73], [1.5, 1.0, 0.8, 0.7, 0.6, 0.6, 0.6, 0.6],
                   [0.4, 0.7, 0.8, 0.85, 0.88, 0.889, 0.89, 0.89])  # fmt: skip
RISING = _history(
    [2.0, 1.6, 1.3, 1.1, 1.0, 0.9, 0.8, 0.7],
    [1.5, 1.2, 1.0, 0.9, 0.8, 0.7, 0.6, 0.5],
    [0.3, 0.4, 0.5, 0.6, 0.65, 0.7, 0.75, 0.8],
    [0.1, 0.08, 0.06, 0.05, 0.04, 0.03, 0.02, 0.01],
)
JUMPING = _history([2.0, 1.5, 1.9, 1.4, 1.8, 1.3, 1.2, 1.1], [2.0, 1.5, 2.5, 1.4, 1.8, 1.3, 1.2, 1.1],
                   [0.3, 0.4, 0.2, 0.5, 0.4, 0.5, 0.5, 0.5])  # fmt: skip
PAST = _history([2.0, 1.0, 0.5, 0.3, 0.1, 0.05, 0.02, 0.01], [1.2, 0.9, 0.8, 0.8, 1.0, 1.2, 1.4, 1.6],
                [0.5, 0.7, 0.75, 0.74, 0.72, 0.70, 0.69, 0.68])  # fmt: skip
PERFECT = _history([2.0, 1.0, 0.5, 0.3], [1.2, 0.6, 0.3, 0.2], [0.5, 0.9, 0.97, 1.0])
STUCK = _history([2.4, 2.31, 2.3, 2.3], [2.3, 2.3, 2.3, 2.3], [0.1, 0.1, 0.1, 0.1])


@pytest.mark.parametrize(
    ("history", "fit", "verdicts", "told"),
    [
        (SETTLED, _fit(0.94, 0.89), ["a fair fit", "converged"], "94.0%"),
        (SETTLED, _fit(0.999, 0.89), ["overfitting", "converged"], "a gap of 10.9 points"),
        (SETTLED, _fit(0.90, 0.89), ["underfitting", "converged"], "90.0%"),
        (RISING, _fit(0.82, 0.80), ["underfitting", "still improving"], "training.epochs=16"),
        (JUMPING, _fit(0.5, 0.5), ["learning rate too high", "underfitting", "converged"], "2 of 8 epochs (3, 5)"),
        (PAST, _fit(0.99, 0.75), ["overfitting", "past its best"], "from 0.800 in epoch 3 to 1.600"),
        (STUCK, _fit(0.1, 0.1), ["has not learned"], f"{math.log(10):.3f}"),
        ([], _fit(0.94, 0.89), ["a fair fit"], "89.0%"),
        # Every image is right: nothing can end higher, and 180 images do not show that the error is 0.
        (PERFECT, _fit(1.0, 1.0, images=180), ["a fair fit", "at the ceiling"], "± 2.1%"),
        # The same gap and the same rise, on validation splits too small to tell them from chance.
        (SETTLED, _fit(0.97, 0.89, images=40), ["a fair fit", "converged"], "± 13.3%"),
        (RISING, _fit(0.82, 0.80, images=40), ["underfitting", "trend unclear"], "no more than the ± 14.8% that 40"),
    ],
)  # fmt: skip
def test_the_verdicts(history: list[dict[str, float]], fit: Fit, verdicts: list[str], told: str) -> None:
    findings = diagnose(history, fit)
    assert [finding.verdict for finding in findings] == verdicts
    assert told in " ".join(finding.reason for finding in findings)


def test_the_learning_rates_end_is_told_where_it_was_logged() -> None:
    told = diagnose(RISING, _fit(0.82, 0.80))[-1].reason
    assert "while the learning rate fell to its end" in told


def _running(rows: list[dict[str, float]], train: list[float]) -> list[dict[str, float]]:
    return [{**row, "train_accuracy": accuracy} for row, accuracy in zip(rows, train, strict=True)]


def _verdicts(history: list[dict[str, float]], epochs: int, *, mixed: bool = False) -> dict[str, int]:
    """Return each verdict that is told while the training goes on, and after which epoch it is first told."""
    first: dict[str, int] = {}
    for end in range(1, len(history) + 1):
        for finding in warnings(history[:end], val_images=5000, classes=10, epochs=epochs, mixed=mixed):
            first.setdefault(finding.verdict, end)
    return first


KNOWN = [0.5, 0.8, 0.9, 0.95, 0.97, 0.99, 1.0, 1.0]  # training accuracy


def test_a_training_that_goes_well_is_told_nothing() -> None:
    assert not _verdicts(_running(RISING, [0.3, 0.4, 0.5, 0.55, 0.6, 0.68, 0.72, 0.8]), 8)
    assert not _verdicts(_running(SETTLED, [0.3, 0.6, 0.7, 0.75, 0.8, 0.85, 0.88, 0.89]), 8)


def test_overfitting_is_told_once_val_loss_has_stopped_to_fall_for_two_epochs() -> None:
    assert _verdicts(_running(PAST, KNOWN), 8) == {"overfitting": 5}
    falling = [{**row, "val_loss": 1 / row["epoch"]} for row in PAST]
    assert not _verdicts(_running(falling, KNOWN), 8)


def test_nothing_is_told_in_the_first_two_epochs_and_then_whether_it_learns_at_all() -> None:
    assert _verdicts(_running(STUCK, [0.1] * 4), 8) == {"has not learned": 3}
    assert _verdicts(_running(JUMPING, [0.3, 0.4, 0.3, 0.5, 0.4, 0.5, 0.5, 0.5]), 8) == {
        "learning rate too high": 6
    }


def test_underfitting_is_told_where_the_loss_stands_still_although_the_rate_is_not_at_its_end() -> None:
    losses, rates = [2.0, 1.5, 1.41, 1.4, 1.4, 1.4, 1.4, 1.4], [0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1]
    flat = _running(_history(losses, [1.4] * 8, [0.5] * 8, rates), [0.4, 0.48, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5])
    assert _verdicts(flat, 12) == {"underfitting": 7}
    assert not _verdicts(flat, 12, mixed=True)
    assert not _verdicts([{**row, "lr": 0.01 if i else 0.8} for i, row in enumerate(flat)], 12)
    assert "underfitting" not in _verdicts([{**row, "train_accuracy": 0.97} for row in flat], 12)
    (finding,) = warnings(flat, val_images=5000, classes=10, epochs=12)
    assert "1.400 to 1.400 in 3 epochs" in finding.reason
    assert "wider" in finding.reason
