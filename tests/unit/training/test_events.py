"""What workers tell arrives in order, and curves reach MLflow whole, also where its server was away for a while."""

from __future__ import annotations

import threading
from typing import ClassVar

import pytest

from raycls.training.events import EpochLogger, _events, tell


def test_what_is_told_is_heard_once_in_order_and_to_the_end(ray_session: None) -> None:
    def heard() -> list[object]:
        over = threading.Event()
        over.set()
        return list(_events("raycls/test/", over, lambda: None))

    told = [["step", 1, 9], ["epoch", {"epoch": 1, "val_loss": 0.25}], ["step", 2, 9]]
    for event in told:
        tell("raycls/test/", *event)
    tell("raycls/another/", "step", 1, 1)
    assert heard() == told
    assert heard() == []


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
