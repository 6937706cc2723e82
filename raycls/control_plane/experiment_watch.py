"""Keeps the challenger's deployment as the server's state says, collects counts, and ends what goes wrong.

    task = asyncio.create_task(ExperimentWatch().run())

The state is what is wanted; this loop makes it so, also after a restart of the control plane or of the cluster.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from raycls.control_plane import served
from raycls.control_plane.loop import forever
from raycls.errors import ClusterError, RayclsError, UsageError
from raycls.lifecycle import experiment, experiment_counts
from raycls.lifecycle.experiment_counts import IMAGES, Counts
from raycls.lifecycle.guards import GuardPolicy, tripped
from raycls.serving import state
from raycls.serving.state import Experiment

PERIOD_S = 1.0
# The challenger shares the cores with the champion, which takes requests first.
GUARDS = GuardPolicy(latency_factor=3)
BY = "raycls"  # who ended an experiment that nobody ended
PROMOTED = "its promotion"  # what ends an experiment well: nobody need look at it

logger = logging.getLogger("ray.serve")


class ExperimentWatch:
    """The loop of one control plane."""

    def __init__(self) -> None:
        self._rests = False  # no experiment runs, and no challenger is left

    async def run(self) -> None:
        """Run until cancelled."""
        try:
            await asyncio.to_thread(experiment.close_left_open)
        except RayclsError as error:
            logger.error(f"raycls cannot end what was left open of experiments: {error}")
        await forever(PERIOD_S, self.step, "watch the experiment")

    async def step(self) -> None:
        """Look once, and do what is needed now."""
        wanted = (await asyncio.to_thread(state.load)).experiment
        if wanted is None and self._rests:
            return
        running = await asyncio.to_thread(served.challengers)
        self._rests = wanted is None and not running
        for identifier in running:
            if wanted is None or identifier != wanted.id:
                await asyncio.to_thread(served.remove_challenger, identifier)
        if wanted is None:
            return
        status, message = running.get(wanted.id, ("", ""))
        if status == "RUNNING":
            await self._collect(wanted)
        elif status in ("DEPLOY_FAILED", "UNHEALTHY"):
            await _end(wanted, f"the challenger does not run: {message.strip().splitlines()[-1][:300]}")
        elif not status:
            try:
                champion = await served.champion(_model(wanted))
            except served.NotServedError as error:
                await _end(wanted, str(error))
                return
            except ClusterError:
                return  # the champion is starting
            await asyncio.to_thread(served.deploy_challenger, wanted, champion.config, champion.replicas)

    async def _collect(self, wanted: Experiment) -> None:
        try:
            reference = await served.version(_model(wanted))
        except served.NotServedError as error:
            await _end(wanted, str(error))
            return
        except ClusterError:
            return
        if reference != wanted.champion:
            by = PROMOTED if reference == wanted.challenger else BY
            await _end(wanted, f"{reference} is served now, and not {wanted.champion}", by)
            return
        newest = await served.counts()
        counts = await asyncio.to_thread(_keep, wanted, newest)
        if reason := trouble(counts):
            await _end(wanted, reason)


def _model(wanted: Experiment) -> str:
    return wanted.champion.partition("/")[0]


def _keep(wanted: Experiment, newest: list[dict[str, Any]]) -> Counts:
    counts = experiment_counts.counts_of(wanted.id).with_counts(wanted.id, newest)
    found = [each for part in newest if part["experiment"] == wanted.id for each in part[IMAGES]]
    counts, refused = experiment_counts.keep_disagreements(wanted, counts, found)
    if refused:
        logger.warning(f"raycls did not keep an image on which both versions disagree: {refused}")
    experiment_counts.save(wanted.id, counts)
    return counts


def trouble(counts: Counts) -> str:
    """Return why the experiment must end, "" where it need not."""
    if counts.broken:
        failures = counts.arm("challenger").failures
        counted = ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in sorted(failures.items()))
        return f"the challenger failed several times in a row ({counted})"
    return tripped(GUARDS, counts.arm("champion"), counts.arm("challenger")) or ""


async def _end(wanted: Experiment, reason: str, by: str = BY) -> None:
    try:
        await asyncio.to_thread(experiment.stop, reason, by=by, only=wanted.id)
    except UsageError:  # somebody else was first
        return
    logger.warning(f"raycls ended the experiment with {wanted.challenger}: {reason}")
