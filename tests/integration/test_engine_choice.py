"""Engines measured and an int8 graph made for a version in a real MLflow. Nothing is served."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from raycls import machine, registry, tracking
from raycls.cli import run
from raycls.config import override
from raycls.data.prepare import prepare
from raycls.data.versions import open_dataset
from raycls.engines import openvino_int8
from raycls.engines.build import running
from raycls.engines.openvino_graph import CONSTANTS, INT8_FOLDER
from raycls.errors import RegistryError
from raycls.registry import ENGINE, INT8, ModelVersion, engine_choice, history
from raycls.training.loop import fit
from raycls.training.presets import preset

needs_int8 = pytest.mark.skipif(not machine.native_int8(), reason="this CPU does not multiply int8")


@pytest.fixture
def version(home: Path) -> ModelVersion:
    """A version of digits that was never promoted."""
    dataset = prepare("digits")
    config = override(preset("smoke", dataset.info), ["epochs=6"])
    fit(config, dataset, on_epoch=lambda metrics, snapshot: snapshot.save(home / "saved"))
    with tracking.run("digits", "run", tags={}) as current:
        return registry.register(
            "digits", current, home / "saved", fingerprint=dataset.info.fingerprint, metrics={}, lineage={}
        )


@needs_int8
def test_the_graph_is_kept_with_the_version_and_every_node_gets_the_measured_one(
    version: ModelVersion, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = registry.choose_engine(version, open_dataset("digits"))
    assert {timing["engine"] for timing in small.engine_timings} == {*running("cpu")} - {"openvino-int8"}
    monkeypatch.setattr(engine_choice, "LEAST_MACS", 0)
    chosen = registry.choose_engine(version, open_dataset("digits"))
    assert {timing["engine"] for timing in chosen.engine_timings} == set(running("cpu"))
    graph = registry.checkpoint(chosen) / INT8_FOLDER
    assert (graph / "sha256").read_text() == chosen.tags[INT8]
    # Another node has an older copy of the checkpoint, and then a damaged graph.
    remote = replace(chosen, uri=f"runs:/{chosen.run_id}/{tracking.CHECKPOINT}")
    copy = registry.checkpoint(replace(remote, tags={}))
    for damage in (lambda: shutil.rmtree(copy / INT8_FOLDER), (copy / INT8_FOLDER / CONSTANTS).unlink):
        damage()
        assert registry.checkpoint(remote) == copy
        registry.check_engine(remote, copy, "openvino-int8")
    with monkeypatch.context() as patch:  # a second promotion measures the same graph
        patch.setattr(openvino_int8, "make", None)
        again = registry.choose_engine(chosen, open_dataset("digits"))
    assert again.tags[INT8] == chosen.tags[INT8]
    # The original is damaged: a node that has no copy gets none, and a promotion makes it again.
    (graph / CONSTANTS).write_bytes(b"half")
    shutil.rmtree(copy)
    with pytest.raises(RegistryError, match="was changed"):
        registry.checkpoint(remote)
    with pytest.raises(RegistryError, match="is not the one that was measured"):
        registry.check_engine(again, registry.checkpoint(again), "openvino-int8")
    mended = registry.choose_engine(again, open_dataset("digits"))
    registry.check_engine(mended, registry.checkpoint(mended), "openvino-int8")


def test_promote_says_what_an_engine_may_lose_and_show_prints_what_each_loses(
    version: ModelVersion, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["promote", "digits", "1", "--max-accuracy-loss", "101"]) == 2
    assert run(["promote", "digits", "1", "--alias", "staging", "--max-accuracy-loss", "1"]) == 2
    assert run(["promote", "digits", "1", "--max-accuracy-loss", "100"]) == 0
    capsys.readouterr()
    # Exit code 1: this version has no training run to trace.
    assert run(["models", "show", "digits", "1", "--json"]) == 1
    timings = json.loads(capsys.readouterr().out)["engine_timings"]
    assert all(0 < timing["accuracy"] <= 1 for timing in timings)
    assert run(["models", "show", "digits", "1"]) == 1
    printed = capsys.readouterr().out
    assert "accuracy on val" in printed and "chosen" in printed
    for timing in timings:
        assert timing["engine"] in printed and f"{timing['accuracy']:.4f}" in printed
    (event,) = history.events("digits")
    assert event.policy["max_accuracy_loss"] == 100


def test_without_the_dataset_the_reference_serves_and_an_earlier_choice_stays(version: ModelVersion) -> None:
    unmeasured = registry.choose_engine(version, None)
    assert unmeasured.tags[ENGINE] == "reference"
    champion = registry.set_alias("digits", unmeasured.version)
    assert registry.engine_to_serve(champion, device="cpu") == "reference"
    measured = registry.choose_engine(version, open_dataset("digits"))
    assert registry.choose_engine(measured, None).engine == measured.engine
