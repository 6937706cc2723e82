"""A study of digits that nothing runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycls.data.versions import open_dataset
from raycls.training.presets import preset
from raycls.tuning.space import around
from raycls.tuning.spec import StudySpec


@pytest.fixture
def spec(digits_home: Path) -> StudySpec:
    info = open_dataset("digits").info
    config = preset("quick", info)
    return StudySpec(
        dataset="digits",
        fingerprint=info.fingerprint,
        config=config,
        storage="unused",
        space=around(config, info.counts["train"]),
        trials=4,
        max_epochs=3,
        scheduler="asha",
    )
