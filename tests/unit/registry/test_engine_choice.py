"""Which engine serves a version, by what its tags say: measured and accurate ones, and the reference always."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raycls import machine
from raycls.config import Engine
from raycls.engines.openvino_graph import INT8_FOLDER
from raycls.errors import ConfigError, RegistryError
from raycls.registry import ENGINE, ENGINE_TIMINGS, INT8, ModelVersion, check_engine, engine_to_serve
from raycls.registry.model_version import PROMOTED_AT

NEVER_MEASURED = ModelVersion(
    name="pets",
    version="3",
    aliases=(),
    run_id="r",
    uri="checkpoints/r",
    sha256="0" * 64,
    fingerprint="f",
    metrics={},
    tags={},
)
MEASURED: list[dict[str, Any]] = [
    {"engine": "reference", "accuracy": 0.9, "allowed": True},
    {"engine": "torch", "accuracy": 0.88, "mean_difference": 0.003, "allowed": False},
    {"engine": "openvino", "accuracy": 0.9, "allowed": True},
    {"engine": "openvino-int8", "accuracy": 0.899, "allowed": True},
]


def _chosen(engine: Engine, timings: list[dict[str, Any]] = MEASURED, **tags: str) -> ModelVersion:
    return replace(NEVER_MEASURED, tags={ENGINE: engine, ENGINE_TIMINGS: json.dumps(timings), **tags})


def test_the_chosen_engine_serves_where_it_runs_and_else_another_one_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(machine, "native_int8", lambda: True)
    assert engine_to_serve(_chosen("openvino-int8"), device="cpu") == "openvino-int8"
    assert engine_to_serve(_chosen("openvino-int8"), device="cuda") == "reference"  # torch loses too much
    assert engine_to_serve(_chosen("cuda-graphs"), device="cpu") == "openvino"
    assert engine_to_serve(_chosen("openvino-int8"), "openvino", "cpu") == "openvino"
    monkeypatch.setattr(machine, "native_int8", lambda: False)
    assert engine_to_serve(_chosen("openvino-int8"), device="cpu") == "openvino"


def test_a_version_that_was_never_measured_is_served_by_the_reference() -> None:
    assert engine_to_serve(NEVER_MEASURED, device="cpu") == "reference"


def test_a_version_that_was_promoted_before_accuracies_were_measured_keeps_its_engine(tmp_path: Path) -> None:
    untimed = replace(NEVER_MEASURED, tags={PROMOTED_AT: "1700000000.0"})
    assert engine_to_serve(untimed, device="cpu") == "torch"
    former = [{"engine": name, "same_class": 0.99} for name in ("reference", "torch", "openvino")]
    version = _chosen("openvino", former)
    assert engine_to_serve(version, device="cpu") == "openvino"
    assert engine_to_serve(version, device="cuda") == "torch"
    check_engine(version, tmp_path, "auto")
    check_engine(version, tmp_path, "torch")


@pytest.mark.parametrize(
    ("version", "engine", "reason"),
    [
        (_chosen("openvino"), "torch", "its accuracy on `val` is 0.8800, that of reference 0.9000"),
        (_chosen("openvino"), "cuda-graphs", "it was never measured, which `raycls promote pets 3` does"),
        (NEVER_MEASURED, "openvino", "it was never measured"),
    ],
)
def test_an_engine_that_is_not_allowed_is_refused(
    version: ModelVersion, engine: Engine, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=f"engine {engine} may not serve pets/3: {reason}"):
        check_engine(version, tmp_path, engine)
    check_engine(version, tmp_path, "reference")
    check_engine(version, tmp_path, "auto")


def test_an_int8_graph_that_was_not_measured_is_refused(quantized: Path) -> None:
    digest = (quantized / INT8_FOLDER / "sha256").read_text()
    check_engine(_chosen("openvino-int8", **{INT8: digest}), quantized, "auto")
    for tags in ({}, {INT8: "0" * 64}):
        with pytest.raises(RegistryError, match="the int8 graph of pets/3 is not the one that was measured"):
            check_engine(_chosen("openvino-int8", **tags), quantized, "auto")
        check_engine(_chosen("openvino", **tags), quantized, "auto")
