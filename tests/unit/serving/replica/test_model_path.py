"""Paths that name a model, and which of them the served one answers."""

from __future__ import annotations

import re

import pytest
from starlette.types import Scope

from raycls.ray_patches.haproxy_template import OF_MODEL
from raycls.registry import ModelVersion
from raycls.serving.replica.answer import HTTPProblem
from raycls.serving.replica.model_path import ONE_VERSION, Place, check, place_of

SERVED = ModelVersion(
    name="pets", version="3", aliases=(), run_id="", uri="", sha256="", fingerprint="", metrics={}, tags={}
)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/models/pets/predict", Place("pets", "", "/predict")),
        ("/models/pets/versions/3/predict", Place("pets", "3", "/predict")),
        (
            "/models/pets/v2/models/pets/versions/3/infer",
            Place("pets", "", "/v2/models/pets/versions/3/infer"),
        ),
        ("/models/pets/versions/3", Place("pets", "3", "/")),
        ("/models/pets", Place("pets", "", "/")),
        ("/models/", Place("", "", "/")),
        ("/models//predict", Place("", "", "/predict")),
    ],
)
def test_what_a_path_names(path: str, found: Place) -> None:
    assert place_of(path) == found


@pytest.mark.parametrize(("model", "version"), [("", ""), ("pets", ""), ("pets", "3"), ("", "3")])
def test_the_served_version_is_there(model: str, version: str) -> None:
    scope: Scope = {}
    check(scope, model, version, SERVED)
    assert (ONE_VERSION in scope) == bool(version)


@pytest.mark.parametrize(
    ("model", "version"), [("pet", ""), ("pets", "2"), ("pets", "03"), ("x" * 5000, "1" * 5000)]
)
def test_another_is_not(model: str, version: str) -> None:
    with pytest.raises(HTTPProblem, match="this is pets/3") as caught:
        check({}, model, version, SERVED)
    assert caught.value.status == 404
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    "path", ["predict", "versions/3/predict", "health", "v2", "v2/models/pets/infer", "openapi.json"]
)
def test_haproxy_sends_to_the_model_what_it_answers(path: str) -> None:
    assert re.search(f"^/models/[^/]+/{OF_MODEL}$", f"/models/pets/{path}")
    for other in ("promote", "rollback", "history", "versions", "versions/3", "predict/x", "compare"):
        assert not re.search(f"^/models/[^/]+/{OF_MODEL}$", f"/models/pets/{other}")
