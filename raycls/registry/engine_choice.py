"""Chooses the engine that serves a version, before its promotion.

version = choose_engine(version, images)
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from raycls import progress, tracking
from raycls.registry.checkpoints import checkpoint
from raycls.registry.model_version import ENGINE, ENGINE_TIMINGS, ModelVersion
from raycls.registry.versions import resolve

if TYPE_CHECKING:
    import numpy as np


def choose_engine(version: ModelVersion, images: np.ndarray) -> ModelVersion:
    """Time the engines on this machine, print the result and store the choice with the version. Return the new version.

    images: uint8 N×S×S×3, real images. An engine is chosen only if its answers for them agree with the reference.
    Raises CheckpointError and RegistryError.
    """
    from raycls.engines.choice import choose  # imports PyTorch, which only a promotion needs

    with progress.bar("timing the engines"):
        choice = choose(checkpoint(version), images)
    progress.say(str(choice))
    for tag, value in ((ENGINE, choice.engine), (ENGINE_TIMINGS, json.dumps(choice.as_json()))):
        tracking.client().set_model_version_tag(version.name, version.version, tag, value)
    return resolve(version.reference)
