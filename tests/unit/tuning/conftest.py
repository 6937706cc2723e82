"""A study of digits that nothing runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycls.config import preset
from raycls.data.packed import open_dataset
from raycls.tuning.space import around
from raycls.tuning.spec import StudySpec


@pytest.fixture
def spec(digits_home: Path) -> StudySpec:
    manifest = open_dataset("digits").manifest
    config = preset("quick", manifest)
    return StudySpec(
        dataset="digits",
        fingerprint=manifest.fingerprint,
        config=config,
        storage="unused",
        space=around(config, manifest.counts["train"]),
        trials=4,
        max_epochs=3,
        scheduler="asha",
    )
