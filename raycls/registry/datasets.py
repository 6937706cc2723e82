"""Which registered models need a dataset version.

    check_unused("pets@1")

This module asks the registry and reads descriptions of datasets.
"""

from __future__ import annotations

from raycls.data.layout import location, parse, versions_of
from raycls.data.packed import read
from raycls.errors import DataError, UsageError
from raycls.registry.listing import list_models


def check_unused(reference: str) -> None:
    """Raise UsageError, which names the models, if a registered model was trained on this dataset version."""
    name, version = parse(reference)
    if version is None or version not in versions_of(name):
        return  # `remove` says so
    try:
        info = read(location(name, version), reference).info
    except DataError:  # it is damaged, so no model can be compared with it
        return
    fingerprints = (info.fingerprint, *info.former_fingerprints)
    needing = [model.reference for model in list_models() if model.fingerprint in fingerprints]
    if needing:
        raise UsageError(
            f"{', '.join(needing[:5])}{', …' if len(needing) > 5 else ''} learned from {reference}: reports, "
            "comparisons and exports need its images. Remove it all the same with --force"
        )
