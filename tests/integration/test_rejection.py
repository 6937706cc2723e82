"""`raycls reject`: from the command to what replicas, the command line, and MLflow's own tools answer."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raycls import home as homes
from raycls import registry, tracking
from raycls.cli import run
from raycls.config import override
from raycls.data.prepare import prepare
from raycls.data.versions import open_dataset
from raycls.engines.rejection import Rejection
from raycls.metrics import told_calibration
from raycls.registry import ModelVersion
from raycls.serving.control import rollout
from raycls.training.filing import filed
from raycls.training.loop import fit
from raycls.training.presets import preset
from tests.predict import encoded


@pytest.fixture(scope="module")
def filed_version() -> Iterator[ModelVersion]:
    """A small model of digits, calibrated and registered in a home of its own. Nothing is served there."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAYCLS_HOME", folder)
        prepare("digits")
        dataset, directory = open_dataset("digits"), Path(folder) / "checkpoint"
        config = override(preset("smoke", dataset.info), ["epochs=6"])
        fit(config, dataset, on_epoch=lambda metrics, snapshot: snapshot.save(directory))
        with tracking.run("digits", "run", tags={}) as current:
            found = filed(directory, dataset, current, "digits", {"study": "digits-1", "trial": "7"}, more={})
        assert found.version is not None
        yield found.version


@pytest.fixture
def version(filed_version: ModelVersion) -> Iterator[ModelVersion]:
    yield filed_version
    registry.set_rejection(registry.resolve(filed_version.reference), None)


@pytest.fixture
def rejects_all() -> Rejection:
    return Rejection(
        precision=0.9, threshold=1.0, engine="torch", dataset="digits", images=100, answered=0, right=0
    )


def test_the_command_finds_a_threshold_and_evaluation_tells_what_it_does(
    version: ModelVersion, capsys: pytest.CaptureFixture[str]
) -> None:
    reference = version.reference
    assert run(["reject", reference]) == 0
    assert f"{reference} rejects no answer" in capsys.readouterr().out
    assert run(["reject", reference, "--precision", "0.8", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    rejection = Rejection.model_validate(document["rejection"])
    assert registry.resolve(reference).rejection == rejection
    assert registry.checkpoint(registry.resolve(reference)), "the checkpoint is as it was registered"
    assert run(["reject", reference]) == 0
    assert f"below {rejection.threshold:.4f}" in capsys.readouterr().out

    assert run(["evaluate", reference, "--split", "val", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["rejection"]["images"] == rejection.images
    assert abs(found["rejection"]["answered"] - rejection.answered) <= 1
    assert found["val_calibration_error_low"] <= found["val_calibration_error"]
    assert run(["evaluate", reference]) == 0
    assert "answered, not rejected" in capsys.readouterr().out

    assert run(["reject", reference, "--precision", "0.9", "--by-class"]) == 0
    # 179 images of ten classes.
    assert "so that of all classes together holds: 0 (" in capsys.readouterr().out
    assert run(["reject", reference, "--off"]) == 0
    assert registry.resolve(reference).rejection is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--precision", "98"], "like 0.98, and not 98"),
        (["--precision", "0.999"], "takes 3,688 images, and digits/val has 179"),
        (["--off", "--precision", "0.9"], "leave out --precision"),
        (["--by-class"], "goes with --precision"),
        (["--off", "--by-class"], "goes with --precision"),
        (["--address", "http://127.0.0.1:1"], "goes with --precision or --off"),
    ],
)
def test_what_cannot_be_is_refused(
    version: ModelVersion, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["reject", version.reference, *options]) == 2
    assert words in capsys.readouterr().err
    assert registry.resolve(version.reference).rejection is None


def test_the_calibration_error_is_known_of_a_studys_winner(version: ModelVersion) -> None:
    found = registry.of_study("digits-1", 7)
    assert found is not None
    assert found.reference == version.reference
    assert "before the temperature" in told_calibration(found.metrics, "test")
    assert registry.of_study("digits-1", 6) is None


def test_a_promotion_says_that_the_threshold_stays_behind(
    version: ModelVersion, rejects_all: Rejection, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.set_rejection(version, rejects_all)
    rollout.promote(version.name, version.version, force="an exercise")
    with tracking.run("digits", "another", tags={}) as current:
        directory = registry.checkpoint(version)
        other = registry.register(
            "digits", current, directory, fingerprint=version.fingerprint, metrics={}, lineage={}
        )
    rollout.promote(other.name, other.version, force="an exercise")
    assert "`raycls reject digits/2 --precision 0.9` sets a threshold" in capsys.readouterr().err


def test_mlflows_own_tools_reject_too(version: ModelVersion, rejects_all: Rejection) -> None:
    import mlflow
    import pandas as pd

    registry.set_rejection(version, rejects_all)
    mlflow.set_tracking_uri(homes.tracking_uri())
    rows = pd.DataFrame({"image": [encoded(1)]})
    loaded = mlflow.pyfunc.load_model(f"models:/{version.reference}")
    assert loaded.predict(rows)[0]["rejected"] is True
    assert "rejected" in [column.name for column in loaded.metadata.signature.outputs]
    registry.set_rejection(registry.resolve(version.reference), None)
    assert "rejected" not in mlflow.pyfunc.load_model(f"models:/{version.reference}").predict(rows)[0]
