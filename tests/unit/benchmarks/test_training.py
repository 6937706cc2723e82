"""The training benchmark: the plain peer trains, and the page says what the runs say."""

from __future__ import annotations

import pytest

from benchmarks.peers.plain_cnn import train_epochs
from benchmarks.training import Run, main, markdown, summary
from raycls import machine
from raycls.data.packed import open_dataset
from raycls.errors import ConfigError, UnknownDatasetError


def test_the_plain_peer_learns_and_times_each_epoch(digits_home):
    run = train_epochs(open_dataset("digits"), epochs=8, threads=1, num_workers=0)
    assert len(run.epoch_seconds) == len(run.test_accuracy) == 8
    assert all(seconds > 0 for seconds in run.epoch_seconds)
    assert max(run.test_accuracy) > 0.25  # crops padded by 4 leave little of 8×8 pixels; chance is 0.1


def run(seed: int, seconds: float, accuracy: float, epoch: float) -> Run:
    return Run(
        seed=seed,
        train_seconds=seconds,
        test_accuracy=accuracy,
        val_accuracy=accuracy,
        peer_epoch_seconds=epoch,
        peer_test_accuracy=0.55,
    )


def test_the_ratio_is_of_medians_and_the_spread_over_seeds():
    runs = [run(0, 90, 0.90, 20), run(1, 100, 0.91, 22), run(2, 500, 0.92, 90)]
    figures = summary(runs)
    assert figures["peer_epochs"] == pytest.approx(100 / 22)
    assert figures["test_accuracy"] == pytest.approx(0.91)
    assert figures["test_accuracy_std"] == pytest.approx(0.01)
    assert summary(runs[:1])["test_accuracy_std"] is None
    page = markdown(
        {"date": "2030-01-02", "dataset": "shapes", "preset": "fast", "config": {"optim.lr": 0.24}, **figures,
         "runs": [vars(each) for each in runs], "hardware": machine.hardware(), "versions": machine.versions()}
    )  # fmt: skip
    assert "91.00% ± 1.00%" in page
    assert "**4.55 epochs**" in page
    assert "| 2 | 92.00% | 92.00% | 500.0 | 90.0 | 55.00% |" in page
    assert "| optim.lr | 0.24 |" in page


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (["--seeds", "one"], ConfigError, "--seeds one is not a list"),
        (["--dataset", "nothing"], UnknownDatasetError, "no dataset 'nothing'"),
        (["--dataset", "digits", "--preset", "huge"], ConfigError, "unknown preset"),
    ],
)
def test_wrong_use_is_told(arguments, error, message, digits_home):
    with pytest.raises(error, match=message):
        main(arguments)
