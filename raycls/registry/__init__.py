"""Model versions and their aliases in MLflow.

from raycls import registry

version = registry.resolve("cifar10")
"""

from raycls.registry.checkpoints import checkpoint
from raycls.registry.engine_choice import choose_engine
from raycls.registry.versions import (
    CHAMPION,
    ENGINE,
    ENGINE_TIMINGS,
    PROMOTING,
    ModelVersion,
    champion,
    list_models,
    newest,
    of_run,
    overview,
    page_of,
    register,
    resolve,
    set_alias,
)

__all__ = [
    "CHAMPION",
    "ENGINE",
    "ENGINE_TIMINGS",
    "PROMOTING",
    "ModelVersion",
    "champion",
    "checkpoint",
    "choose_engine",
    "list_models",
    "newest",
    "of_run",
    "overview",
    "page_of",
    "register",
    "resolve",
    "set_alias",
]
