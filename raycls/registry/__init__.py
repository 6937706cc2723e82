"""Model versions and their aliases in MLflow.

from raycls import registry

version = registry.resolve("cifar10")
"""

from raycls.registry.versions import (
    CHAMPION,
    ENGINE,
    ENGINE_TIMINGS,
    PROMOTING,
    ModelVersion,
    champion,
    checkpoint,
    choose_engine,
    list_models,
    newest,
    of_run,
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
    "register",
    "resolve",
    "set_alias",
]
