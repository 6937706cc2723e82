"""A study of digits that nothing runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycls.config import preset
from raycls.data.packed import open_dataset
from raycls.tuning.job import StudyJob
from raycls.tuning.space import around


@pytest.fixture
def job(digits_home: Path) -> StudyJob:
    manifest = open_dataset("digits").manifest
    config = preset("quick", manifest)
    return StudyJob(
        dataset="digits",
        fingerprint=manifest.fingerprint,
        config=config,
        storage="unused",
        space=around(config, manifest.counts["train"]),
        trials=4,
        max_epochs=3,
        scheduler="asha",
    )
