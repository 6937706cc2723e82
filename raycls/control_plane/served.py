"""What the control plane asks the replicas of the champion, and the deployment of a challenger.

    await version()                 # "pets/6"
    await counts()                  # of the experiment, by replica

What Serve calls these things stands here. Beside this module, only app.py, retrain_watch.py and work.py know Ray.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from typing import Any, NamedTuple

from ray import serve
from ray.exceptions import RayError
from ray.serve import RunTarget
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatusOverview

from raycls import registry
from raycls.errors import CheckpointError, ClusterError, RegistryError
from raycls.models.card import load_card
from raycls.ray_patches.haproxy_template import APPLICATION, CONSOLE
from raycls.serving.challenger import Challenger
from raycls.serving.control.configuration import CHALLENGERS, DEPLOYMENT
from raycls.serving.settings import ServingConfig
from raycls.serving.state import Experiment

SERVING = "raycls"  # the name of the application that answers predictions
ANSWER_S = 2.0
NAMES_S = 5.0  # an application that was added is seen after that
BESIDE = (APPLICATION, CONSOLE)  # applications without a model
CHALLENGER_CPUS = 0.25  # small, so that it fits beside an update of the champion


logger = logging.getLogger("ray.serve")


class NotServedError(ClusterError):
    """All applications answer, and none has the model."""


class Champion(NamedTuple):
    """What answers for a model: NAME/VERSION, its settings, and how many replicas of that version have answered."""

    reference: str
    config: ServingConfig
    replicas: int


class _Applications:
    """The names of the applications that answer predictions. Serve's controller is asked every few seconds at most.

    known: whether it has answered.
    """

    def __init__(self) -> None:
        self.known = False
        self._names, self._asked = [SERVING], -math.inf
        self._asking: asyncio.Task[list[str]] | None = None

    async def names(self) -> list[str]:
        """Return the names, that of the model at / first: the last ones known, where the controller is silent."""
        if self._asking is None and time.monotonic() - self._asked > NAMES_S:
            self._asking = asyncio.create_task(asyncio.to_thread(_applications))
        asking = self._asking
        if asking and (await asyncio.wait({asking}, timeout=ANSWER_S))[0] and asking is self._asking:
            self._asking, self._asked = None, time.monotonic()
            if error := asking.exception():
                logger.warning(f"raycls cannot ask Serve which applications run: {error}")
            elif found := asking.result():
                self._names, self.known = found, True
        return self._names


def _applications() -> list[str]:
    """Return the names of all that serve a model, also of those that are being built and do not answer yet."""
    found = serve.status().applications
    names = (
        name
        for name, each in found.items()
        if name not in BESIDE and not name.startswith(CHALLENGERS)
        if DEPLOYMENT in each.deployments or not each.deployments
    )
    return sorted(names, key=SERVING.__ne__)


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


async def champion(model: str = "") -> Champion:
    """Return what answers for a model; without a name, for the one at /.

    Raises NotServedError where all applications answer and none has the model, and ClusterError where one is silent.
    """
    answers = await _by_application("served") if model else {SERVING: await _broadcast(SERVING, "served")}
    found = [answer for part in answers.values() for answer in part]
    fitting = [answer for answer in found if model in ("", answer[0].partition("/")[0])]
    if fitting:
        reference, config = fitting[0]
        # During an update, replicas of the other version answer too.
        return Champion(reference, config, sum(answer[0] == reference for answer in fitting))
    if found and all(answers.values()) and _APPLICATIONS.known:
        served = ", ".join(sorted({reference for reference, _ in found}))
        raise NotServedError(f"{model} is not served: {served} is")
    raise ClusterError("no replica answers: `raycls doctor` says why")


async def version(model: str = "") -> str:
    """Return the version that is served, NAME/VERSION; without a name, of the model at /. Raises ClusterError."""
    return (await champion(model)).reference


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
        engine = registry.resolve(experiment.champion).engine
        # Its promotion will also make its int8 graph.
        engine = "openvino" if engine == "openvino-int8" else engine
        config = config.model_copy(update={"engine": engine})
    target = Challenger.options(**options).bind(config, challenger)  # type: ignore[attr-defined]
    serve.run_many(
        [RunTarget(target, name=CHALLENGERS + experiment.id, route_prefix=None)],
        wait_for_ingress_deployment_creation=False,
        wait_for_applications_running=False,
    )


def remove_challenger(identifier: str) -> None:
    """Stop the replicas of an experiment's challenger."""
    serve.delete(CHALLENGERS + identifier)
