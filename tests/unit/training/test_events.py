"""The curves of a training reach MLflow whole, even where its server is away for a while."""

from __future__ import annotations

from typing import ClassVar

import pytest

from raycls.data.packed import PackedDataset
from raycls.training.events import EpochLogger, _listen
from raycls.training.presets import preset


def test_figures_that_mlflow_refuses_are_logged_with_the_next(capsys: pytest.CaptureFixture[str]) -> None:
    class Run:
        up = False
        logged: ClassVar[list[tuple[int, dict[str, float]]]] = []

        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            if not self.up:
                raise ConnectionError("the server is gone\nand much more")
            self.logged.append((step, metrics))

    run = Run()
    curves = EpochLogger(run, frozenset({1}))  # type: ignore[arg-type]
    for epoch in (1, 2, 3):
        curves.add({"epoch": epoch})
    told = capsys.readouterr().err
    assert "MLflow does not take the figures of epoch 3: the server is gone\n" in told
    with pytest.raises(ConnectionError):
        curves.flush()
    run.up = True
    curves.add({"epoch": 4})
    curves.add({"epoch": 2})
    assert Run.logged == [(2, {"epoch": 2}), (3, {"epoch": 3}), (4, {"epoch": 4})]


def test_a_resumed_run_says_where_it_goes_on(
    digits: PackedDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    class Curves:
        def add(self, metrics: dict[str, float]) -> None:
            pass

    scaling = {"num_workers": 1, "resources_per_worker": {"CPU": 1}}
    for told, expected in ((["resumed", 0, 1200], "step 1,200 of epoch 1"), (["resumed", 2, 0], "epoch 2")):
        _listen(iter([told]), Curves(), preset("smoke", digits.info), scaling)  # type: ignore[arg-type]
        assert f"  going on after {expected}\n" in capsys.readouterr().err
