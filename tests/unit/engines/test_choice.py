"""The fastest engine that is as accurate as the reference on all of `val` is chosen, and all are measured."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest
import torch

from raycls.data.packed import PackedDataset
from raycls.engines import build as engines
from raycls.engines import openvino, openvino_graph
from raycls.engines.build import Device, running
from raycls.engines.choice import choose
from raycls.engines.examples import Examples, match
from raycls.engines.predictor import Predictor
from raycls.errors import CheckpointError, EngineError
from raycls.models import checkpoint
from raycls.models.base import Network
from raycls.models.card import load_card

CPU: Device = "cpu"
ANY = 100.0  # points that may be lost


@pytest.fixture(scope="session")
def val(quantized: Path, digits: PackedDataset) -> Examples:
    return match(load_card(quantized), digits, "val")


def test_the_fastest_that_is_allowed_is_chosen(quantized: Path, val: Examples) -> None:
    choice = choose(quantized, val, ANY, CPU)
    assert [timing.engine for timing in choice.timings] == list(running(CPU))
    assert all(timing.one_ms > 0 for timing in choice.timings)
    allowed = [timing for timing in choice.timings if timing.allowed]
    assert min(allowed, key=lambda timing: timing.cost).engine == choice.engine
    assert {entry["engine"] for entry in choice.as_json()} == set(running(CPU))


def test_the_accuracy_is_that_of_the_whole_split(
    quantized: Path, val: Examples, digits: PackedDataset
) -> None:
    for timing in choose(quantized, val, ANY, CPU).timings:
        predictor = Predictor.load(quantized, engine=timing.engine, device=CPU)
        right = predictor.logits(np.asarray(digits.images("val"))).argmax(1) == digits.labels("val")
        assert timing.accuracy == pytest.approx(right.mean(), abs=1e-9)


def _gives(monkeypatch: pytest.MonkeyPatch, logits: np.ndarray) -> None:
    """Let the engine `openvino`, the fastest one then, give these logits for the split, as it goes through it."""
    position = 0

    def load(directory: Path, threads: int) -> engines.Run:
        nonlocal position
        position = 0

        def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            nonlocal position
            given = np.resize(logits[position:], (len(images), logits.shape[1]))
            position = (position + len(images)) % len(logits)
            return given, given

        return run

    monkeypatch.setattr(openvino, "load", load)


@pytest.mark.parametrize(("most_lost", "chosen"), [(0.2, False), (50.0, True)])
def test_an_engine_that_loses_more_than_is_allowed_is_not_chosen_however_fast(
    quantized: Path,
    val: Examples,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    most_lost: float,
    chosen: bool,
) -> None:
    """One image of this split is more than 0.2 points."""
    exact = Predictor.load(quantized, engine="reference", device=CPU).logits(val.pixels(slice(None)))
    right = np.flatnonzero(exact.argmax(1) == val.labels)
    other = exact.copy()
    other[right[0]] = np.roll(exact[right[0]], 1)  # another class, with the same confidence
    _gives(monkeypatch, other)
    choice = choose(quantized, val, most_lost, CPU, names=("reference", "openvino"))
    assert (choice.engine == "openvino") is chosen
    assert [timing.allowed for timing in choice.timings] == [True, chosen]
    lost = f"engine openvino is not used: on {len(val):,} images it loses {100 / len(val):.2f} points of accuracy"
    assert (lost in capsys.readouterr().err) is not chosen


def test_an_engine_with_other_confidences_is_not_chosen_however_accurate(
    quantized: Path, val: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = Predictor.load(quantized, engine="reference", device=CPU).logits(val.pixels(slice(None)))
    _gives(monkeypatch, 10 * exact)
    choice = choose(quantized, val, ANY, CPU, names=("reference", "openvino"))
    assert choice.engine == "reference"
    assert choice.timings[1].accuracy == choice.timings[0].accuracy


def test_an_engine_that_cannot_run_a_network_is_said_and_left_out(
    quantized: Path,
    val: Examples,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Tracing fails where a network looks at values; no network of raycls's does."""

    class Data(Network):
        def features(self, images: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("no such operation\nat line 7")

    card = load_card(quantized)
    with pytest.raises(EngineError, match=r"OpenVINO cannot run this fastcnn: \w") as caught:
        engines.build("openvino", Data(), card, CPU)
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(openvino_graph, "without_telemetry", lambda: importlib.import_module("no_openvino"))
    choice = choose(quantized, val, ANY, CPU)
    assert {timing.engine for timing in choice.timings} == {"reference", "torch"}
    said = capsys.readouterr().err
    for engine in set(running(CPU)) - {"reference", "torch"}:
        assert f"engine {engine} is not used: OpenVINO cannot run this fastcnn: No module" in said


def test_a_network_without_finite_answers_has_no_engine(
    directory: Path, digits: PackedDataset, tmp_path: Path
) -> None:
    network, card = checkpoint.load(directory)
    with torch.no_grad():
        network.head.weight.fill_(float("nan"))
    checkpoint.save(tmp_path, network, card)
    with pytest.raises(CheckpointError, match="not finite"):
        choose(tmp_path, match(card, digits, "val"), ANY, CPU)
