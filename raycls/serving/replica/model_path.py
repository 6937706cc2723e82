"""Paths that name a model: /models/NAME/predict and /models/NAME/versions/VERSION/predict, like all other routes.

    place = place_of("/models/pets/versions/3/predict")         # Place("pets", "3", "/predict")
    check(request.scope, place.model, place.version, served)    # raises HTTPProblem 404 for others

HAProxy puts /models/NAME before the paths of the Open Inference Protocol, so that one rule finds the model of both.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from starlette.types import Scope

from raycls.ray_patches.haproxy_template import OF_MODEL
from raycls.registry import ModelVersion
from raycls.serving.replica.answer import HTTPProblem

BELOW = "/models/"
ONE_VERSION = "raycls.one_version"
_OF_MODEL = re.compile(f"{BELOW}[^/]*/{OF_MODEL}")


class Place(NamedTuple):
    """What a path names. version: "" for whichever is served. path: what follows, from its slash on."""

    model: str
    version: str
    path: str


def is_of_model(path: str) -> bool:
    """Return whether a model answers a path that begins with BELOW, and not the control plane."""
    return _OF_MODEL.fullmatch(path) is not None


def place_of(path: str) -> Place:
    """Return what a path that begins with BELOW names."""
    model, version = path.removeprefix(BELOW), ""
    model, _, rest = model.partition("/")
    if rest.startswith("versions/"):
        _, version, *after = rest.split("/", 2)
        rest = "".join(after)
    return Place(model, version, f"/{rest}")


def check(scope: Scope, model: str, version: str, served: ModelVersion) -> None:
    """Raise HTTPProblem 404 where a name or a version is not that of the served one. "": no matter which.

    scope: of the request. It gets ONE_VERSION where a version is named: a challenger must not answer that.
    """
    if model not in ("", served.name) or version not in ("", served.version):
        wanted = f"{model[:80]}/{version[:9]}" if version else model[:80]
        raise HTTPProblem(404, f"there is no {wanted} here: this is {served.reference}")
    if version:
        scope[ONE_VERSION] = True
