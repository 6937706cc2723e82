"""`raycls prune` makes a smaller version, which lives as other versions do."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from raycls import registry, tracking
from raycls.cli import app
from raycls.models.card import load_card
from raycls.training.filing import TrainingResult


def _run(*arguments: str) -> str:
    outcome = CliRunner().invoke(app, list(arguments))
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def test_a_pruned_version_is_smaller_and_knows_its_parent(trained: TrainingResult, tmp_path: Path) -> None:
    parent = trained.version
    assert parent is not None
    settings = ["--preset", "smoke", "--set", "epochs=3", "--model", "small-digits"]
    made = json.loads(_run("prune", parent.reference, "--share", "0.4", *settings, "--json"))
    assert made["model"] == "small-digits/1"
    assert made["parent"] == parent.reference
    assert made["after"]["macs"] <= 0.6 * made["before"]["macs"]
    assert made["after"]["parameters"] < made["before"]["parameters"]
    assert set(made["after"]["ms"]) == set(made["before"]["ms"])
    assert made["parent_test_accuracy"] == trained.metrics["test_accuracy"]
    assert made["test_accuracy"] > 0.6
    version = registry.resolve(made["model"])
    assert version.tags["init"] == f"{parent.reference} sha256:{parent.sha256}"
    assert str(made["after"]["macs"]) in version.tags["pruned"]
    assert (
        load_card(registry.checkpoint(version)).arguments["widths"]
        != load_card(registry.checkpoint(parent)).arguments["widths"]
    )
    assert tracking.client().get_run(made["run_id"]).data.tags["pruned"] == version.tags["pruned"]
    assert json.loads(_run("evaluate", made["model"], "--split", "test", "--json"))
    page = tmp_path / "page.html"
    _run("evaluate", made["model"], "--report", "--output", str(page))
    assert page.stat().st_size > 100_000
    again = _run("train", "digits", "--preset", "smoke", "--init", made["model"], "--model", "small-digits")
    assert "registered small-digits/2" in again
    outcome = CliRunner().invoke(app, ["train", "digits", "--refit", made["model"]])
    assert "began with channels of another version" in str(outcome.exception)
    _run("promote", "small-digits", "1")
    assert registry.resolve("small-digits").reference == "small-digits/1"


def test_what_cannot_be_pruned_is_said_before_a_run_begins(trained: TrainingResult) -> None:
    assert trained.version is not None
    for share, reason in (("0", "such as 0.5"), ("0.9999", "at most")):
        outcome = CliRunner().invoke(app, ["prune", trained.version.reference, "--share", share])
        assert reason in str(outcome.exception)
    assert "nope" in str(CliRunner().invoke(app, ["prune", "nope/1"]).exception)
