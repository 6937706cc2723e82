"""What a training is told while it goes on, and where that is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raycls import tracking
from raycls.config import Config
from raycls.data.packed import PackedDataset
from raycls.training.curves import FINDINGS
from raycls.training.watch import WatchedEpochs

# It learns nothing: a blind guess among ten classes has a loss of 2.303.
BLIND = {
    "train_loss": 2.303,
    "train_accuracy": 0.1,
    "val_loss": 2.303,
    "val_accuracy": 0.1,
    "lr": 0.1,
}


def test_a_finding_is_told_once_and_a_resumed_run_does_not_repeat_it(
    digits: PackedDataset, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with tracking.run("digits", "run", {}) as run:
        curves = WatchedEpochs(run, Config(), digits.info)
        for epoch in (1, 2, 3, 3, 4):
            curves.add({"epoch": epoch, **BLIND})
    told = capsys.readouterr().err
    assert told.count("has not learned, after epoch 3: The training loss is 2.303") == 1

    found = tracking.find_run(run.id)
    assert found is not None
    (kept,) = json.loads(found.data.tags[FINDINGS])
    assert (kept["verdict"], kept["epoch"]) == ("has not learned", 3)

    again = WatchedEpochs(run, Config(), digits.info, frozenset({1, 2, 3, 4}))
    for epoch in range(1, 7):
        again.add({"epoch": epoch, **BLIND})
    assert "has not learned" not in capsys.readouterr().err
    assert len(tracking.history(run.id)) == 6
