"""The simulation of experiments: its groups are those of the test itself, and the page has every scenario."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks.sequential import SCENARIOS, Scenario, differences, first_decision, main
from raycls.lifecycle.sequential import Tally, decide


def test_a_stream_is_decided_where_the_test_decides() -> None:
    scenario = Scenario("some", 0.25, 900, 300)
    observed = differences(np.random.default_rng(0), scenario, 0.7, 0.2, 20)
    assert observed.shape == (20, 300)
    decisions = [first_decision(stream) for stream in observed]
    assert any(look >= 0 for look, _ in decisions)
    for stream, (look, direction) in zip(observed, decisions, strict=True):
        tally, found = Tally(), -1
        for index, difference in enumerate(stream):
            tally += Tally({float(difference): 1})
            if (verdict := decide(tally)).decision != "not_yet":
                found = index
                assert direction == (1 if verdict.decision == "better" else -1)
                break
        assert found == look


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_the_observations_have_the_difference_that_is_simulated(scenario: Scenario) -> None:
    observed = differences(np.random.default_rng(0), scenario, 0.9, 0.02, 100)
    assert observed.mean() == pytest.approx(0.02, abs=4 * observed.std() / np.sqrt(observed.size))


def test_the_page_has_every_scenario(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--streams", "2", "--output", str(tmp_path)])
    rows = json.loads(capsys.readouterr().out.splitlines()[-1])["rows"]
    assert len(rows) == 2 * len(SCENARIOS)
    page = (tmp_path / "sequential.md").read_text()
    assert all(page.count(f"| {scenario.name} |") == 2 for scenario in SCENARIOS)
