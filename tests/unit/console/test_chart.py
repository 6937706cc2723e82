"""Learning curves as SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from raycls.console.chart import chart

NAN = float("nan")


@pytest.mark.parametrize(
    "history",
    [
        [{"epoch": 1.0, "train_loss": 2.0}],
        [
            {"epoch": 1.0, "train_loss": 2.0, "val_loss": 2.0},
            {"epoch": 2.0, "train_loss": 2.0, "val_loss": NAN},
        ],
        [{"epoch": float(n), "train_loss": 2.0 / n, "val_loss": -1.0 * n} for n in range(1, 40)],
        [{"epoch": 3.0, "train_loss": 0.0}],
    ],
)
def test_a_chart_is_well_formed_and_within_its_frame(history: list[dict[str, float]]) -> None:
    drawn = ET.fromstring(chart(history, ("train_loss", "val_loss")))
    for line in drawn.iter("polyline"):
        for place in line.attrib["points"].split():
            x, y = map(float, place.split(","))
            assert 0 <= x <= 520
            assert 0 <= y <= 220


def test_a_lower_value_is_lower_and_a_later_epoch_further_right() -> None:
    (line,) = ET.fromstring(
        chart([{"epoch": 1, "val_loss": 2.0}, {"epoch": 2, "val_loss": 1.0}], ("val_loss",))
    ).iter("polyline")
    (x1, y1), (x2, y2) = (map(float, place.split(",")) for place in line.attrib["points"].split())
    assert x1 < x2
    assert y1 < y2


def test_there_is_no_chart_of_nothing_and_names_are_escaped() -> None:
    assert chart([], ("val_loss",)) == ""
    assert chart([{"epoch": 1, "val_loss": NAN}], ("val_loss",)) == ""
    assert "<b>" not in chart([{"epoch": 1, "<b>": 1.0}], ("<b>",))
