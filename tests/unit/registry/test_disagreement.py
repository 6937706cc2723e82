"""Where two versions differ: which pictures, in which order, and which confusions."""

from __future__ import annotations

import numpy as np

from raycls.registry.disagreement import confusions_apart, pictures_apart
from raycls.registry.measure import Answers

CLASSES = ("cat", "dog", "fox")


def _answers(labels: str, champion: str, challenger: str, sure: list[float]) -> Answers:
    """Letters are the classes' first ones. sure: of both, by picture."""
    index = {name[0]: number for number, name in enumerate(CLASSES)}

    def probabilities(classes: str) -> np.ndarray:
        rest = (1 - np.array(sure))[:, None] / 2
        return np.where(np.eye(3)[[index[letter] for letter in classes]] > 0, np.array(sure)[:, None], rest)

    count = len(labels)
    return Answers(
        dataset="pets@2",
        split="gate",
        classes=CLASSES,
        labels=np.array([index[letter] for letter in labels]),
        rows=10 * np.arange(count),
        uploaded=np.zeros(count, bool),
        champion=probabilities(champion),
        challenger=probabilities(challenger),
        train_images=(9, 9, 9),
        engines=("torch", "torch"),
        latency_ms=(1.0, 1.0),
        remarks=(),
    )


FOUND = _answers("ccdddf", "cdcccc", "ccddfd", [0.9, 0.6, 0.8, 0.9, 0.99, 0.7])


def test_the_surest_pictures_on_which_one_is_right_come_first() -> None:
    count, pictures = pictures_apart(FOUND, 10)
    assert count == 5
    assert [picture.row for picture in pictures] == [30, 20, 10, 40, 50]
    first = pictures[0]
    assert (first.label, first.champion, first.challenger) == ("dog", "cat", "dog")
    assert first.champion_confidence == 0.9
    assert pictures_apart(FOUND, 2)[1] == pictures[:2]


def test_confusions_are_counted_for_both_and_the_greatest_change_comes_first() -> None:
    found = confusions_apart(FOUND, 10)
    assert (found[0].label, found[0].taken_for, found[0].champion, found[0].challenger) == (
        "dog",
        "cat",
        3,
        0,
    )
    assert {(each.label, each.taken_for) for each in found[1:]} == {
        ("cat", "dog"),
        ("dog", "fox"),
        ("fox", "cat"),
        ("fox", "dog"),
    }
    assert confusions_apart(_answers("cd", "cd", "cd", [0.9, 0.9]), 10) == []
