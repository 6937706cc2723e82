"""Learning curves as SVG."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from raycls.console.chart import chart, front

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


def test_an_axis_may_begin_at_zero() -> None:
    rows = [{"minutes": -1, "requests": 250.0}, {"minutes": 0, "requests": 500.0}]
    (line,) = ET.fromstring(chart(rows, ("requests",), "minutes", from_zero=True)).iter("polyline")
    (_, half), (_, whole) = (map(float, place.split(",")) for place in line.attrib["points"].split())
    assert 202 - half == pytest.approx((202 - whole) / 2, abs=0.2)  # 202: where 0 is


def test_a_lower_value_is_lower_and_a_later_epoch_further_right() -> None:
    (line,) = ET.fromstring(
        chart([{"epoch": 1, "val_loss": 2.0}, {"epoch": 2, "val_loss": 1.0}], ("val_loss",))
    ).iter("polyline")
    (x1, y1), (x2, y2) = (map(float, place.split(",")) for place in line.attrib["points"].split())
    assert x1 < x2
    assert y1 < y2


def test_a_line_has_a_gap_where_it_has_no_number() -> None:
    values = [1.0, 2.0, None, 4.0, 5.0, None, 2.0]
    rows = [{"epoch": number, "val_loss": value} for number, value in enumerate(values)]
    drawn = ET.fromstring(chart(rows, ("val_loss",)))
    assert [len(line.attrib["points"].split()) for line in drawn.iter("polyline")] == [2, 2, 1]
    assert len(list(drawn.iter("circle"))) == 1


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.311, 0.811, "0.2 0.4 0.6 0.8 1.0"),
        (1000.0, 1002.0, "1,000.0 1,000.5 1,001.0 1,001.5 1,002.0"),
        (0.0, 473.0, "0 200 400 600"),
        (0.0, 1.0, "0.00 0.25 0.50 0.75 1.00"),
        (5.0, 5.0, "4 6"),
    ],
)
def test_the_numbers_of_an_axis_are_round(low: float, high: float, ticks: str) -> None:
    rows = [{"epoch": 1, "val_loss": low}, {"epoch": 2, "val_loss": high}]
    drawn = ET.fromstring(chart(rows, ("val_loss",)))
    assert " ".join(text.text or "" for text in list(drawn.iter("text"))[:-2]) == ticks


def test_there_is_no_chart_of_nothing_and_names_are_escaped() -> None:
    assert chart([], ("val_loss",)) == ""
    assert chart([{"epoch": 1, "val_loss": NAN}], ("val_loss",)) == ""
    assert "<b>" not in chart([{"epoch": 1, "<b>": 1.0}], ("<b>",))


def test_points_lie_by_their_values_and_the_line_joins_the_front() -> None:
    points = [(1.0, 0.8, "a", "front"), (2.0, 0.9, "<b>", "chosen"), (2.0, 0.5, "c", "trial")]
    drawn = ET.fromstring(front(points, across="latency, ms", up="val_accuracy"))
    circles = {circle[0].text.partition(":")[0]: circle for circle in drawn.iter("circle")}
    assert float(circles["a"].get("cx")) < float(circles["<b>"].get("cx")) == float(circles["c"].get("cx"))
    assert float(circles["<b>"].get("cy")) < float(circles["a"].get("cy")) < float(circles["c"].get("cy"))
    (line,) = drawn.iter("polyline")
    assert len(line.get("points").split()) == 2
    assert front([], across="latency, ms", up="val_accuracy") == ""
