"""The training benchmark: the plain peer, the bare training loop, and the results page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from harness import training_page

from benchmarks.peers.plain_cnn import train_epochs
from benchmarks.training import main
from raycls import machine
from raycls.data.versions import open_dataset
from raycls.errors import ConfigError, UnknownDatasetError


def test_the_plain_peer_learns_and_times_each_epoch(digits_home):
    run = train_epochs(open_dataset("digits"), epochs=8, threads=1, num_workers=0)
    assert len(run.epoch_seconds) == len(run.test_accuracy) == 8
    assert all(seconds > 0 for seconds in run.epoch_seconds)
    assert max(run.test_accuracy) > 0.25  # crops padded by 4 leave little of 8×8 pixels; chance is 0.1


def _run(seed: int, seconds: float, accuracy: float, epoch: float) -> dict[str, Any]:
    return {
        "seed": seed,
        "train_seconds": seconds,
        "test_accuracy": accuracy,
        "val_accuracy": accuracy,
        "peer_epoch_seconds": epoch,
        "peer_test_accuracy": 0.55,
    }


RUNS = [_run(0, 90, 0.90, 20), _run(1, 100, 0.91, 22), _run(2, 500, 0.92, 20)]


def test_the_ratio_is_the_median_of_the_pairs_and_the_spread_over_seeds():
    figures = training_page.preset_summary(RUNS)
    assert figures["peer_epochs"] == pytest.approx(100 / 22)
    assert figures["test_accuracy"] == pytest.approx(0.91)
    assert figures["test_accuracy_std"] == pytest.approx(0.01)
    assert training_page.preset_summary(RUNS[:1])["test_accuracy_std"] is None


def test_the_page_has_every_measured_part_and_no_other(tmp_path: Path):
    measured = {
        "presets-fast": ({"dataset": "shapes", "preset": "fast"}, RUNS),
        "ray-2x1": ({"workers": 2, "threads": 1}, [{"bare_seconds": 10, "ray_seconds": s} for s in (11, 12, 9)]),
        "workers": ({}, [{"images_per_s_1": 1000, "images_per_s_2": 1900}]),
        "memory": ({}, [{f"peak_memory_{kind}": 2**30 for kind in ("total", "private", "file")}]),
        "levers": ({}, [{"lever": name, "seed": 0, "train_seconds": t, "test_accuracy": 0.9}
                        for name, t in (("as it is", 10), ("without", 15))]),
        "networks-shapes": ({"dataset": "shapes"}, [{"network": "cnn", "init": "", "seed": 0, "test_accuracy": 0.8,
                                                     "test_macro_accuracy": 0.7, "train_seconds": 3}]),
    }  # fmt: skip
    (tmp_path / "training").mkdir()
    for name, (arguments, rows) in measured.items():
        document = {"name": name, "date": "2030-01-02 03:04", "arguments": arguments, "rows": rows,
                    "hardware": machine.hardware(), "versions": machine.versions()}  # fmt: skip
        (tmp_path / "training" / f"{name}.json").write_text(json.dumps(document))
    text = training_page.write(tmp_path).read_text()
    assert (
        "| `fast` | 91.00% ± 1.00 | 100.0 s | **4.55** (4.50 to 25.00) | 20.0 s | 90.0% in 4.2 | 3 | 2030-01-02 03:04 |"
        in text
    )
    assert "| `fast` | 2 | 92.00% | 92.00% | 500.0 | 20.0 | 55.00% |" in text
    assert "| 2 × 1 | 10.0 s | 11.0 s | **1.10** (0.90 to 1.20) | 3 |" in text
    assert "| 1,000 | 1,900 | **1.90** (1.90 to 1.90) | 1 |" in text
    assert "| without | 15.0 s | 1.50 × | 90.00% | 1 |" in text
    assert "| shapes | `cnn` | 80.00% | 70.00% | 3.0 s | 1 |" in text
    assert "same global batch" not in text


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["presets", "--seeds", "one"], ConfigError, "--seeds one is not a list"),
        (["memory", "--dataset", "nothing"], UnknownDatasetError, "no dataset 'nothing'"),
        (["presets", "--dataset", "digits", "--preset", "huge"], ConfigError, "unknown preset"),
    ],
)
def test_wrong_use_is_an_error(arguments, error, message, digits_home, tmp_path: Path):
    with pytest.raises(error, match=message):
        main([*arguments, "--output", str(tmp_path)])
