"""A study over public networks, each of which starts from a file of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from raycls import registry
from raycls.cli.training import weights_path
from raycls.errors import SourceError, UsageError
from raycls.models.card import load_card
from raycls.models.networks import build
from raycls.training.recipes import configured
from raycls.tuning.plan import plan
from raycls.tuning.space import Domain
from raycls.tuning.study import tune
from tests.datasets import colours

NAMES = ("timm/test_efficientnet.r160_in1k", "timm/test_convnext.r160_in1k")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with weights of both networks: random ones, of a first layer that does not tell colours apart."""
    for name in NAMES:
        network = build(name, num_classes=1000, image_size=64)
        torch.save(network.body.state_dict(), tmp_path / f"{name.removeprefix('timm/')}.pth")  # type: ignore[union-attr]
    return tmp_path


@pytest.mark.long
def test_a_study_over_networks_finds_the_front(home: Path, folder: Path) -> None:
    info = colours(64, {"train": 60, "val": 40, "gate": 20, "test": 20}).info
    weights = weights_path(str(folder), NAMES[0], None)
    settings = ["batch_size=20", "precision=fp32"]
    config = configured(info, "smoke", network=NAMES[0], settings=settings, pretrained=True)
    space = {"network.name": Domain(choices=NAMES)}
    given = {"search": "grid", "objective": "accuracy,latency", "space": space}
    outcome = tune(plan("colours", config, weights=weights, **given))
    trials = outcome.study.trials
    assert {trial.values["network.name"] for trial in trials} == set(NAMES)
    assert all(trial.state == "done" for trial in trials), [trial.reason for trial in trials]
    assert len({trial.latency_ms for trial in trials}) == 2
    assert outcome.study.best in outcome.study.front
    version = outcome.training.version
    assert version is not None
    assert load_card(registry.checkpoint(version)).network == outcome.study.best.values["network.name"]

    one = json.loads(weights or "")[NAMES[0].removeprefix("timm/")]
    with pytest.raises(UsageError, match="give --weights a folder with a file for each"):
        plan("colours", config, weights=one, **given)
    absent = {**given, "space": {"network.name": Domain(choices=(*NAMES, "timm/test_vit.r160_in1k"))}}
    with pytest.raises(SourceError, match=r"has no test_vit\.r160_in1k\.pth"):
        plan("colours", config, weights=weights, **absent)
