"""The results of a serving benchmark: speed-ups, conclusions, JSON, page and plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image
from pydantic import ValidationError

from raycls import machine
from raycls.benchmark import report
from raycls.benchmark.load import Sample
from raycls.benchmark.results import Plan, Point, Results


def sample(requests_per_s: float, errors: dict[str, int] | None = None) -> Sample:
    return Sample(
        answered=int(requests_per_s),
        errors=errors or {},
        requests_per_s=requests_per_s,
        p50_ms=5.0,
        p95_ms=8.0,
        p99_ms=9.0,
        mean_ms=5.5,
        max_ms=20.0,
        labelled=100,
        correct=90,
        generator_cores=0.2,
        late_p99_ms=None,
    )


def point(
    replicas: int,
    rates: Sequence[float],
    *,
    connections: int | None = 8,
    offered: float | None = None,
    busy: float = 1.0,
    own: float = 0.9,
    batch: float = 4.0,
    errors: dict[str, int] | None = None,
) -> Point:
    """own: the cores that replicas, ingress and generator use, out of the `busy` cores."""
    return Point(
        replicas=replicas,
        connections=None if offered else connections,
        rate=offered,
        samples=[sample(rate, errors) for rate in rates],
        batch_mean=batch,
        batch_max=8,
        cores={"replicas": own - 0.5, "ingress": 0.3, "generator": 0.2, "busy": busy},
    )


def results(*points: Point) -> Results:
    return Results(
        date="2030-01-02 03:04",
        hardware={**machine.hardware(), "cores": "2"},
        versions=machine.versions(),
        plan=Plan(),
        config={"max_batch_size": 64},
        model="shapes/3",
        test_accuracy=0.91,
        memory_mib={1: 300.0, 2: 310.0},
        points=list(points),
    )


def test_a_point_is_the_median_of_its_repeats_with_their_range():
    measured = point(1, [100, 300, 200])
    assert measured.requests_per_s == 200
    assert measured.spread("requests_per_s") == (200, 100, 300)
    assert measured.spread("late_p99_ms") is None


def test_speedup_compares_equal_connections_and_peaks_compare_the_best():
    one, many = point(1, [100], connections=1), point(1, [400], connections=32)
    two_one, two_many = point(2, [110], connections=1), point(2, [600], connections=32)
    measured = results(one, many, point(1, [200], offered=200), two_one, two_many)
    assert measured.speedup(two_one) == pytest.approx(1.1)
    assert measured.speedup(two_many) == pytest.approx(1.5)
    assert measured.speedup(measured.open(1)[0]) is None
    assert measured.efficiency(two_many) == pytest.approx(0.75)
    assert measured.efficiency(measured.open(1)[0]) is None
    assert measured.peak(2) is two_many
    assert measured.as_json()["peak_speedup"] == {"1": 1.0, "2": 1.5}


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (point(1, [100]), point(2, [190]), ["1.90 ×", "full share"]),
        (
            point(1, [100], busy=1.7, own=1.65),
            point(2, [140], busy=1.95, own=1.9, batch=2.0),
            ["1.40 ×", "not 2 ×", "alone used 1.70", "replicas 1.15", "left 0.30 free", "from 4.0 to 2.0"],
        ),
        (point(1, [100], busy=1.9, own=1.9), point(2, [101], busy=2.0, own=1.9), ["More replicas do not help here"]),
        (point(1, [100]), point(2, [110], busy=1.1, own=1.05), ["only 1.10 of 2 cores are busy"]),
        (point(1, [100]), point(2, [90], busy=2.0, own=0.9), ["other programs use 1.10 of the 2 cores"]),
        (point(1, [100], connections=1), point(2, [100], connections=1), ["one connection sends one request"]),
    ],
    ids=["scales", "all cores busy", "no help", "cores free", "other programs", "one connection"],
)  # fmt: skip
def test_the_conclusion_follows_from_the_figures(first, second, expected):
    (conclusion,) = results(first, second).conclusions()
    for words in expected:
        assert words in conclusion


def test_json_names_every_figure_with_its_unit():
    document = json.loads(json.dumps(results(point(1, [100, 120], errors={"503": 2})).as_json()))
    (measured,) = document["points"]
    assert {"p50_ms", "p95_ms", "p99_ms", "requests_per_s", "speedup", "n", "repeats", "cores"} <= set(
        measured
    )
    assert measured["requests_per_s_range"] == [100, 120]
    assert measured["errors"] == {"503": 4}
    assert (measured["n"], measured["repeats"], measured["loop"]) == (220, 2, "closed")
    assert document["accuracy_over_http"] == 0.9
    assert document["settings"]["connections"] == [1, 8, 32]


def test_the_page_has_every_point_the_circumstances_and_its_plot(tmp_path: Path):
    measured = results(
        point(1, [100, 120]), point(1, [50], offered=50), point(2, [150], errors={"503": 2}), point(2, [75], offered=75)
    )  # fmt: skip
    page, plot = report.write(measured, tmp_path / "made")
    text = page.read_text()
    for row in report.rows(measured):
        assert "| " + " | ".join(row) + " |" in text
    assert report.rows(measured)[0][2:5] == ("110 (100–120)", "1.00 ×", "1.00 ×")
    assert report.rows(measured)[2][3:5] == ("1.36 ×", "0.68 ×")
    assert report.rows(measured)[2][-1] == "503: 2"
    for value in (
        *measured.hardware.values(),
        *measured.versions.values(),
        "2030-01-02 03:04 UTC",
        "300 MiB with 1",
    ):
        assert value in text
    assert measured.conclusions()[0] in text
    assert "| max_batch_size | 64 |" in text
    assert f"]({plot.name})" in text
    with_open = Image.open(plot).size
    report.write(results(point(1, [100])), tmp_path)
    assert Image.open(tmp_path / "serving.png").size[0] < with_open[0]  # no open loop: no third panel


def test_the_page_and_the_plot_show_the_bound(tmp_path: Path):
    measured = results(point(1, [100]), point(2, [150]))
    bounded = measured.model_copy(update={"bound_per_s": 300.0})
    page = report.markdown(bounded, "serving.png")
    assert "The bound of this machine is 300 images/s" in page
    assert "The best load below reaches 50% of it." in page
    assert "The bound of this machine" not in report.markdown(measured, "serving.png")
    pages = [
        report.write(each, tmp_path / name)[1] for name, each in (("without", measured), ("with", bounded))
    ]
    without, with_bound = (Image.open(path).convert("L").histogram()[0] for path in pages)
    assert with_bound > without  # a black line
    assert bounded.as_json()["bound_per_s"] == 300


def test_the_page_says_that_the_network_is_simulated():
    measured = results(point(1, [100]), point(2, [150]))
    slow = measured.model_copy(update={"plan": Plan(simulate_forward_ms=20)})
    assert "The network is simulated: each image sleeps 20 ms" in report.markdown(slow, "serving.png")


def test_the_table_goes_to_stderr(capsys):
    report.print_table(results(point(1, [100]), point(2, [190])))
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "1.90 ×" in captured.err
    assert (
        "Accuracy of the answers over HTTP: 90.00% (registered on the whole test split: 91.00%)"
        in captured.err
    )


@pytest.mark.parametrize(
    "wrong", [{"replicas": [0]}, {"replicas": [1, 1]}, {"connections": []}, {"connections": [600]}, {"rates": "fast"},
              {"rates": [0]}, {"seconds": 0}, {"repeats": 0}]
)  # fmt: skip
def test_a_plan_is_checked(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        Plan.model_validate(wrong)
