"""The tools beside MLflow: what they are told, and that none costs a run. Weights & Biases is the real package."""

from __future__ import annotations

import importlib
import io
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image

from raycls.errors import TrackingError, UsageError
from raycls.tracking import weights_biases
from raycls.tracking.trackers import Followers, check, opened
from raycls.tracking.weights_biases import WeightsAndBiases
from tests.wandb_runs import offline, record


class _Notebook:
    """A tracker that others might write."""

    name, id = "a notebook", "7"

    def __init__(self) -> None:
        self.told: list[Any] = []

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        if step == 2:
            raise OSError("no space left\nand more")
        self.told.append((step, metrics))


def test_a_tool_that_fails_is_said_once_and_stops_neither_the_run_nor_other_tools(
    capsys: pytest.CaptureFixture[str],
) -> None:
    notebook, other = _Notebook(), _Notebook()
    followers = Followers({"notebook": notebook, "other": other})  # type: ignore[dict-item]
    other.name = "another one"
    for step in (1, 2, 2, 3):
        followers.tell(lambda each, step=step: each.log_metrics({"a": 0.5}, step=step))
    assert notebook.told == other.told == [(1, {"a": 0.5}), (3, {"a": 0.5})]
    told = capsys.readouterr().err
    assert told.count("a notebook does not take all of this run: no space left. MLflow does") == 1
    assert told.count("another one does not take") == 1
    assert followers.ids() == {"notebook": "7", "other": "7"}


def test_a_tool_that_is_unknown_or_not_installed_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no tool 'tensorboard' to log to: --log takes wandb"):
        check(["tensorboard"])
    check(["wandb"])
    # As where it is not installed: there is no public way to uninstall it for one test.
    monkeypatch.setattr("raycls.tracking.trackers.find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=r"--log wandb needs the package wandb: pip install 'raycls\[wandb\]'"
    ):
        check(["wandb"])


def test_a_run_in_weights_and_biases_has_settings_curves_figures_and_the_checkpoint(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offline(monkeypatch, tmp_path)
    study = WeightsAndBiases(None, project="pets", name="study", group="study")
    run = WeightsAndBiases(None, project="pets", name="pets-1", group="study")
    run.log_params({"optim.lr": 0.24, "network.widths": (32, 64)})
    for epoch in (1, 2, 3):
        run.log_metrics({"epoch": epoch, "val_accuracy": epoch / 10}, step=epoch)
    run.log_metrics({"test_accuracy": 0.25}, step=3)
    study.log_metrics({"best_val_accuracy": 0.3})
    picture = io.BytesIO()
    Image.new("RGB", (8, 8)).save(picture, "PNG")
    run.log_figure(picture.getvalue(), "confusion_matrix.png")
    run.log_tables({"confusion_matrix.json": {"true": ["cat"], "images": [5]}})
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "model.json").write_text("{}")
    run.log_checkpoint(tmp_path / "checkpoint")
    run.end("FINISHED")
    study.end("KILLED")

    written = record(home, run.id)
    assert (written.project, written.name, written.group, written.exit_code) == ("pets", "pets-1", "study", 0)
    assert written.config == {"optim.lr": 0.24, "network.widths": [32, 64]}
    assert written.curve("val_accuracy") == {1: 0.1, 2: 0.2, 3: 0.3}
    assert written.curve("test_accuracy") == {3: 0.25}
    assert written.media == {"figures/confusion_matrix", "tables/confusion_matrix"}
    assert "model.json" in written.artifacts["model"]
    other = record(home, study.id)
    assert (other.exit_code, other.summary["best_val_accuracy"]) == (1, 0.3)
    assert capsys.readouterr().out == ""  # which is for results


def test_a_resumed_run_goes_on_in_the_same_run(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch, tmp_path)
    first = opened({"wandb": None}, project="pets", name="pets-1")
    first.tell(lambda each: each.log_metrics({"loss": 2.0}, step=1))
    first.tell(lambda each: each.end("KILLED"))
    began = time.strftime("%S")
    while time.strftime("%S") == began:  # wandb names the folder of each start by its second
        time.sleep(0.05)
    again = opened(dict(first.ids()), project="pets", name="pets-1")
    assert again.ids() == first.ids()
    again.tell(lambda each: each.log_metrics({"loss": 1.0}, step=2))
    again.tell(lambda each: each.end("FINISHED"))
    assert record(home, first.ids()["wandb"]).curve("loss") == {1: 2.0, 2: 1.0}


def test_without_login_or_network_nothing_starts_and_the_way_out_is_said(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch, tmp_path, "online")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(UsageError, match=r"No API key configured.*wandb login.*WANDB_MODE=offline"):
        WeightsAndBiases(None, project="pets", name="pets-1")
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setattr(weights_biases, "START_S", 2.0)
    with pytest.raises(TrackingError, match=r"does not start: .*check the network.*WANDB_MODE=offline"):
        WeightsAndBiases(None, project="pets", name="pets-1")


def _kill_wandb() -> None:
    for child in psutil.Process().children(recursive=True):
        if child.name().startswith("wandb"):
            child.kill()
            child.wait(10)


def test_a_process_of_wandb_that_dies_costs_nothing(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    offline(monkeypatch, tmp_path)
    followers = opened({"wandb": None}, project="pets", name="pets-1")
    _kill_wandb()
    for epoch in (1, 2, 3):
        followers.tell(lambda each, epoch=epoch: each.log_metrics({"loss": 1.0}, step=epoch))
    followers.tell(lambda each: each.end("FINISHED"))
    assert capsys.readouterr().err.count("Weights & Biases does not take all of this run") == 1


def test_a_process_of_wandb_that_dies_stops_no_import(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offline(monkeypatch, tmp_path)
    opened({"wandb": None}, project="pets", name="pets-1")
    _kill_wandb()
    (tmp_path / "lightgbm.py").write_text("")  # one of the modules whose import wandb counts
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lightgbm", raising=False)
    importlib.import_module("lightgbm")
    del sys.modules["lightgbm"]  # no other test shall find this one
