"""`raycls ensemble` makes a version of several, and `raycls networks` lists what a training can start from."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from harness.served_copy import register_again
from typer.testing import CliRunner

from raycls import registry
from raycls.cli import app
from raycls.data.versions import open_dataset
from raycls.engines.predictor import Predictor
from raycls.training.filing import TrainingResult


def _run(*arguments: str) -> str:
    outcome = CliRunner().invoke(app, list(arguments))
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def test_an_ensemble_is_a_version_with_its_own_figures_and_latency(trained: TrainingResult) -> None:
    assert trained.version is not None
    own = trained.version
    copies = [register_again(own, registry.checkpoint(own)) for _ in range(2)]
    made = json.loads(_run("ensemble", *[each.reference for each in copies], "--json"))
    version = registry.resolve(made["model"])
    assert version.name == own.name
    assert copies[0].reference in version.tags["ensemble"]
    assert version.engine_timings
    images = np.array(open_dataset("digits").images("test")[:32])
    both = [Predictor.load(registry.checkpoint(each)) for each in (own, version)]
    alone, together = (each.probabilities(images) for each in both)
    assert np.array_equal(alone.argmax(1), together.argmax(1))  # two times the same network
    assert made["test_accuracy"] == pytest.approx(trained.metrics["test_accuracy"])


def test_an_ensemble_lives_as_other_versions_do(trained: TrainingResult, tmp_path: Path) -> None:
    assert trained.version is not None
    own = trained.version
    other = register_again(own, registry.checkpoint(own))
    made = json.loads(_run("ensemble", own.reference, other.reference, "--model", "together", "--json"))
    name, _, number = made["model"].partition("/")
    assert made["model"] in _run("models")
    shown = json.loads(_run("models", "show", name, number, "--json"))
    states = {(step["name"], step["value"]): step["state"] for step in shown["lineage"]}
    assert states["member", own.reference] == states["member", other.reference] == "verified"
    assert "broken" not in states.values()
    page = tmp_path / "page.html"
    _run("evaluate", made["model"], "--report", "--output", str(page))
    assert page.stat().st_size > 100_000
    outcome = CliRunner().invoke(app, ["retrain", name])
    assert "not retrained" in str(outcome.exception)


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        (["digits"], "at least two members"),
        (["digits", "digits"], "name each version once"),
        (["nope/1"], "nope"),
    ],
)
def test_what_makes_no_ensemble_is_said(trained: TrainingResult, members: list[str], reason: str) -> None:
    outcome = CliRunner().invoke(app, ["ensemble", *members])
    assert outcome.exit_code != 0
    assert reason in str(outcome.exception)


def test_networks_are_listed_with_what_they_cost(tmp_path: Path) -> None:
    (found,) = json.loads(_run("networks", "fastcnn", "--size", "32", "--time", "--json"))
    assert found["parameters"] > 100_000
    assert found["macs"] > 1_000_000
    assert {"reference", "torch"} <= set(found["ms"])
    assert all(0 < ms < 10_000 for ms in found["ms"].values())
    assert "mobilenet_v3_small" in _run("networks", "mobile*", "--size", "64")
    assert "timm/test_vit.r160_in1k" in _run("networks", "timm/test_*", "--size", "160")
    assert len(_run("networks", "timm/*").splitlines()) > 1000
    assert CliRunner().invoke(app, ["networks", "nothing*"]).exit_code != 0
