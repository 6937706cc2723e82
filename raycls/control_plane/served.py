"""What the control plane asks the replicas of the champion, and the deployment of a challenger.

    await version()                 # "pets/6"
    await counts()                  # of the experiment, by replica

What Serve calls these things stands here. Beside this module, only app.py, retrain_watch.py and work.py know Ray.
"""

from __future__ import annotations

import asyncio
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
CHALLENGER_CPUS = 0.25  # small, so that it fits beside an update of the champion


async def broadcast(method: str, *arguments: Any) -> list[Any]:
    """Return what the replicas of all models answer. Those without an answer, or not in time, are left out."""
    names = await asyncio.to_thread(applications)
    answers = await asyncio.gather(*(_broadcast(name, method, *arguments) for name in names))
    return [answer for part in answers for answer in part]


def applications() -> list[str]:
    """Return the names of the applications that answer predictions, that of the model at / first."""
    try:
        found = serve.status().applications
    except (RayServeException, RayError):
        return []
    return sorted(
        (name for name, each in found.items() if DEPLOYMENT in each.deployments), key=SERVING.__ne__
    )


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

    Raises ClusterError where no replica answers, or none has the model.
    """
    found = await broadcast("served")
    for reference, config in found:
        if model in ("", reference.partition("/")[0]):
            return reference, config
    if found:
        raise ClusterError(f"{model} is not served: {', '.join(sorted({each for each, _ in found}))} is")
    raise ClusterError("no replica answers: `raycls doctor` says why")


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


def _replicas(model: str) -> int:
    """Return how many replicas of the model's champion run: of its own application, or of the one at /."""
    found = serve.status().applications
    deployments = found.get(f"{SERVING}-{model}", found[SERVING]).deployments
    return max(
        1, sum(count for state, count in deployments[DEPLOYMENT].replica_states.items() if state == "RUNNING")
    )


def deploy_challenger(experiment: Experiment, config: ServingConfig) -> None:
    """Begin to start the challenger's replicas, as many as the champion has. Raises UnknownModelError."""
    challenger = registry.resolve(experiment.challenger)
    options = {
        "num_replicas": _replicas(challenger.name),
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
