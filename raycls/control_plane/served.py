"""What the control plane asks the replicas of the champion, and the deployment of a challenger.

    await version()                 # "pets/6"
    await counts()                  # of the experiment, by replica

What Serve calls these things stands here. Beside this module, only app.py, retrain_watch.py and work.py know Ray.
"""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve import RunTarget
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatusOverview

from raycls import registry
from raycls.errors import CheckpointError, ClusterError, RegistryError
from raycls.models.card import load_card
from raycls.serving.challenger import Challenger
from raycls.serving.control.configuration import CHALLENGERS, DEPLOYMENT
from raycls.serving.settings import ServingConfig
from raycls.serving.state import Experiment

SERVING = "raycls"  # the name of the application that answers predictions
ANSWER_S = 2.0
NAMES_S = 5.0  # an application that was added is seen after that
CHALLENGER_CPUS = 0.25  # small, so that it fits beside an update of the champion


class NotServedError(ClusterError):
    """All applications answer, and none has the model."""


class _Applications:
    """The names of the applications that answer predictions. Serve's controller is asked every few seconds at most."""

    def __init__(self) -> None:
        self._names, self._asked = [SERVING], -math.inf
        self._asking: asyncio.Task[list[str]] | None = None

    async def names(self) -> list[str]:
        """Return the names, that of the model at / first: the last ones known, where the controller is silent."""
        if self._asking is None and time.monotonic() - self._asked > NAMES_S:
            self._asking = asyncio.create_task(asyncio.to_thread(_applications))
        if self._asking and (await asyncio.wait({self._asking}, timeout=ANSWER_S))[0]:
            self._names, self._asked = self._asking.result() or self._names, time.monotonic()
            self._asking = None
        return self._names


def _applications() -> list[str]:
    try:
        found = serve.status().applications
    except (RayServeException, RayError):
        return []
    return sorted(
        (name for name, each in found.items() if DEPLOYMENT in each.deployments), key=SERVING.__ne__
    )


_APPLICATIONS = _Applications()


async def broadcast(method: str, *arguments: Any) -> list[Any]:
    """Return what the replicas of all models answer. Those without an answer, or not in time, are left out."""
    return [answer for part in (await _by_application(method, *arguments)).values() for answer in part]


async def _by_application(method: str, *arguments: Any) -> dict[str, list[Any]]:
    names = await _APPLICATIONS.names()
    answers = await asyncio.gather(*(_broadcast(name, method, *arguments) for name in names))
    return dict(zip(names, answers, strict=True))


async def _broadcast(application: str, method: str, *arguments: Any) -> list[Any]:
    try:
        # The first call asks Serve's controller and waits for it. The handle itself belongs to the event loop.
        handle = await asyncio.to_thread(serve.get_deployment_handle, DEPLOYMENT, application)
        results = handle.broadcast(method, *arguments).results
        received = await asyncio.to_thread(results, timeout_s=ANSWER_S, return_exceptions=True)
    except (
        TimeoutError,
        KeyError,
        RayServeException,
        RayError,
    ):  # KeyError: nothing is deployed by that name
        return []
    return [result for result in received if result is not None and not isinstance(result, BaseException)]


async def champion(model: str = "") -> tuple[str, ServingConfig]:
    """Return the model's served version, NAME/VERSION, and its settings; without a name, those of the model at /.

    Raises NotServedError where all applications answer and none has the model, and ClusterError where one is silent.
    """
    answers = await _by_application("served") if model else {SERVING: await _broadcast(SERVING, "served")}
    found = [answer for part in answers.values() for answer in part]
    for reference, config in found:
        if model in ("", reference.partition("/")[0]):
            return reference, config
    if found and all(answers.values()):
        served = ", ".join(sorted({reference for reference, _ in found}))
        raise NotServedError(f"{model} is not served: {served} is")
    raise ClusterError("no replica answers: `raycls doctor` says why")


async def replicas(model: str) -> int:
    """Return how many replicas of the model answer; at least 1."""
    found = await broadcast("served")
    return max(1, sum(reference.partition("/")[0] == model for reference, _ in found))


async def version(model: str = "") -> str:
    """Return the version that is served, NAME/VERSION; without a name, of the model at /. Raises ClusterError."""
    return (await champion(model))[0]


async def dataset() -> str:
    """Return the name of the dataset that the served version learned from. Raises ClusterError and RegistryError."""
    reference = await version()
    directory = await asyncio.to_thread(lambda: registry.checkpoint(registry.resolve(reference)))
    return load_card(directory).dataset


async def dataset_or_none() -> str | None:
    """Return the same; None where no replica answers, and where the served version is damaged or was deleted."""
    try:
        return await dataset()
    except (ClusterError, RegistryError, CheckpointError):
        return None


async def counts() -> list[dict[str, Any]]:
    """Return the counts of the experiment from each replica that takes part."""
    return await broadcast("experiment_counts")


async def version_counts() -> list[tuple[str, str, dict[str, Any]]]:
    """Return of each replica its version, its id and the fields of raycls.lifecycle.guards.ArmCounts."""
    return await broadcast("version_counts")


async def traffic() -> list[dict[str, Any]]:
    """Return of each replica of the model at / its id, the requests that it holds, and its counts since it started."""
    return await _broadcast(SERVING, "traffic")


async def drift_sums(found: dict[str, Any]) -> list[dict[str, Any]]:
    """Return version and sums from each replica that watches drift. found: the last windows, for their /metrics."""
    return await broadcast("drift_sums", found)


def challengers() -> dict[str, tuple[str, str]]:
    """Return the challengers' deployments: the experiment's id → the status and Serve's message."""
    return {
        name.removeprefix(CHALLENGERS): (str(application.status.value), _message(application))
        for name, application in serve.status().applications.items()
        if name.startswith(CHALLENGERS) and application.status != "DELETING"
    }


def _message(application: ApplicationStatusOverview) -> str:
    """Return what Serve says; of the deployments where they say something, because that names the cause."""
    said = [deployment.message for deployment in application.deployments.values() if deployment.message]
    return said[-1] if said else application.message


def deploy_challenger(experiment: Experiment, config: ServingConfig, count: int) -> None:
    """Begin to start so many replicas of the challenger. Raises UnknownModelError."""
    challenger = registry.resolve(experiment.challenger)
    options = {
        "num_replicas": count,
        "max_ongoing_requests": 64,
        "ray_actor_options": {"num_cpus": CHALLENGER_CPUS},
        "max_constructor_retry_count": 1,  # one that does not load ends the experiment at once
        "health_check_period_s": 0.5,
        "health_check_timeout_s": 5,
        "graceful_shutdown_timeout_s": 5,
        "logging_config": {"log_level": "WARNING", "enable_access_log": False},
    }
    # Without an engine of its own, which its promotion will choose, it runs on the champion's: the guards compare both.
    if config.engine == "auto" and not challenger.engine_timings:
        config = config.model_copy(update={"engine": registry.resolve(experiment.champion).engine})
    target = Challenger.options(**options).bind(config, challenger)  # type: ignore[attr-defined]
    serve.run_many(
        [RunTarget(target, name=CHALLENGERS + experiment.id, route_prefix=None)],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )


def remove_challenger(identifier: str) -> None:
    """Stop the replicas of an experiment's challenger."""
    serve.delete(CHALLENGERS + identifier)
