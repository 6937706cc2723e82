"""Model versions and their aliases in MLflow.

from raycls import registry

version = registry.resolve("cifar10")
"""

from raycls.registry.checkpoints import checkpoint
from raycls.registry.engine_choice import check_engine, choose_engine, engine_to_serve
from raycls.registry.listing import list_models, newest, overview, page_of
from raycls.registry.model_version import ENGINE, ENGINE_TIMINGS, INT8, ModelVersion
from raycls.registry.rejection import set_rejection
from raycls.registry.versions import (
    CHALLENGER,
    CHAMPION,
    PROMOTING,
    champion,
    check_name,
    of_run,
    of_study,
    register,
    resolve,
    set_alias,
)

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "ENGINE",
    "ENGINE_TIMINGS",
    "INT8",
    "PROMOTING",
    "ModelVersion",
    "champion",
    "check_engine",
    "check_name",
    "checkpoint",
    "choose_engine",
    "engine_to_serve",
    "list_models",
    "newest",
    "of_run",
    "of_study",
    "overview",
    "page_of",
    "register",
    "resolve",
    "set_alias",
    "set_rejection",
]
