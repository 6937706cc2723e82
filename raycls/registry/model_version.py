"""A model version: what MLflow tells of it. Its tags hold the lineage.

    version = of_mlflow(client.get_model_version("pets", "3"))
    version.reference, version.metrics["val_accuracy"], version.engine

The tags: dataset fingerprint → study → trial → run → checkpoint SHA-256. Versions that other programs registered in the
same MLflow have no SHA-256, and are none of raycls.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raycls.engines.rejection import Rejection

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion as MlflowVersion

    from raycls.config import Engine

LONGEST_NAME = 200  # characters
SHA256 = "checkpoint_sha256"  # the tag that every version of raycls has
ENGINE, ENGINE_TIMINGS = "engine", "engine_timings"  # tags: the engine that serves a version, and the timings
INT8 = "int8_sha256"  # a tag: the digest of the int8 graph beside the weights
PROMOTED_AT = "promoted_at"  # a tag: when it became champion, seconds since 1970
REJECTION = "rejection"  # tag: the thresholds of `raycls reject`
SERVED_TAGS = (ENGINE, ENGINE_TIMINGS, INT8, REJECTION)  # what a replica reads


@dataclass(frozen=True, kw_only=True)
class ModelVersion:
    """One version of a registered model. uri: the checkpoint directory in MLflow. sha256: the checkpoint's digest."""

    name: str
    version: str
    aliases: tuple[str, ...]
    run_id: str
    uri: str
    sha256: str
    fingerprint: str
    metrics: dict[str, float]
    tags: dict[str, str]

    @property
    def reference(self) -> str:
        """Return `NAME/VERSION`, which `resolve` accepts."""
        return f"{self.name}/{self.version}"

    @property
    def engine(self) -> Engine:
        """Return the engine that serves this version. `choose_engine` chooses it before a promotion.

        Default: reference. A champion from before a promotion always stored an engine keeps torch.
        """
        return self.tags.get(ENGINE, "torch" if PROMOTED_AT in self.tags else "reference")  # type: ignore[return-value]

    @property
    def served_tags(self) -> dict[str, str]:
        """Return the tags that a replica reads, with the engine of a champion from before it was always stored."""
        tags = {tag: value for tag, value in self.tags.items() if tag in SERVED_TAGS}
        return {ENGINE: self.engine} | tags if PROMOTED_AT in self.tags else tags

    @property
    def engine_timings(self) -> list[dict[str, Any]]:
        """Return the timing of each engine: the fields of raycls.engines.choice.Timing. Empty if none was timed.

        Timings from before the accuracy was measured have neither `accuracy` nor `allowed`.
        """
        return json.loads(self.tags.get(ENGINE_TIMINGS, "[]"))

    def allows(self, engine: Engine) -> bool:
        """Return whether an engine may serve this version: it is the reference, or was measured and is as accurate."""
        return engine in ("reference", self.engine) or any(
            timing["engine"] == engine and timing.get("allowed", True) for timing in self.engine_timings
        )

    @property
    def rejection(self) -> Rejection | None:
        """Return the thresholds below which answers are rejected, or None."""
        text = self.tags.get(REJECTION)
        return Rejection.model_validate_json(text) if text else None


def is_name(name: str) -> bool:
    """Return whether MLflow takes the name of a model, and a reference and a search may hold it."""
    return (
        0 < len(name) <= LONGEST_NAME
        and name.isprintable()
        and name == name.strip()
        and name not in (".", "..")
        and not set(name) & set("/:@'\"`\\")
    )


def is_own(found: MlflowVersion) -> bool:
    """Return whether raycls registered a version."""
    return bool(re.fullmatch("[0-9a-f]{64}", found.tags.get(SHA256, "")))


def of_mlflow(found: MlflowVersion, aliases: tuple[str, ...]) -> ModelVersion:
    """Return a version of MLflow as raycls knows it."""
    tags = dict(found.tags)
    return ModelVersion(
        name=found.name,
        version=str(found.version),
        aliases=aliases,
        run_id=found.run_id or "",
        uri=found.source or "",
        sha256=tags[SHA256],
        fingerprint=tags.get("dataset_fingerprint", ""),
        metrics={k.removeprefix("metric."): float(v) for k, v in tags.items() if k.startswith("metric.")},
        tags=tags,
    )
