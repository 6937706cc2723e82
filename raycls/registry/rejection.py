"""Stores with a version the thresholds below which its answers are rejected.

version = set_rejection(version, rejection)      # None removes them

A tag of the version holds them. Weights, card and their digest stay as they are. MLflow's own tools do not see the tag,
so the file MLmodel beside the card holds the thresholds too.
"""

from __future__ import annotations

from raycls import tracking
from raycls.engines.rejection import Rejection
from raycls.errors import RegistryError
from raycls.registry import mlflow_model
from raycls.registry.model_version import REJECTION, ModelVersion
from raycls.registry.versions import resolve


def set_rejection(version: ModelVersion, rejection: Rejection | None) -> ModelVersion:
    """Store the thresholds with a version, or remove them, and return the version. Raises RegistryError."""
    from mlflow.exceptions import MlflowException

    client, model = tracking.client(), f"{tracking.CHECKPOINT}/{mlflow_model.FILE}"
    content = mlflow_model.description(version.run_id, rejection).encode()
    try:
        if rejection:
            client.set_model_version_tag(
                version.name, version.version, REJECTION, rejection.model_dump_json()
            )
        elif REJECTION in version.tags:
            client.delete_model_version_tag(version.name, version.version, REJECTION)
        tracking.Run(version.run_id).log_bytes(content, model)
    except (MlflowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise RegistryError(f"MLflow did not take the threshold of {version.reference}: {reason}") from None
    return resolve(version.reference)
