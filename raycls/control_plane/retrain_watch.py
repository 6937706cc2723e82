"""Submits a Ray job for each retraining that is not done, and again where a job has died.

    task = asyncio.create_task(RetrainWatch().run())

The records are what is wanted; this loop makes it so, also after a restart of the control plane or of the cluster.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from raycls import cluster
from raycls.cluster.environment import GIVE_WAY
from raycls.control_plane.loop import forever
from raycls.errors import ClusterError
from raycls.lifecycle import retraining
from raycls.lifecycle.documents import now
from raycls.lifecycle.retraining import Retraining

PERIOD_S = 2.0
MOST_JOBS = 5  # for one retraining: if each of them fails, a person must look at it
PAUSE_S = 2.0  # from one job that fails to the next at least; twice as long after each further one
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class RetrainWatch:
    """The loop of one control plane."""

    def __init__(self) -> None:
        self._client: Any = None
        self._settled: set[str] = set()  # retrainings for which nothing is left to do
        self._not_before: dict[str, float] = {}  # of a retraining's next job

    async def run(self) -> None:
        """Run until cancelled."""
        await forever(PERIOD_S, lambda: asyncio.to_thread(self.step), "watch the retrainings")

    def step(self) -> None:
        """Look once: submit what is missing, and stop what somebody has ended."""
        records = [record for record in retraining.records(but=self._settled) if record.in_jobs]
        jobs = self._jobs() if records else []
        for record in records:
            mine = [job for job in jobs if job.submission_id.startswith(_name(record, ""))]
            if not record.is_open:
                for job in mine:
                    self._client.stop_job(job.submission_id)
                self._settled.add(record.id)
            elif not mine and not self._pauses(record):
                self._submit(record.id)

    def _pauses(self, record: Retraining) -> bool:
        """Return whether the last job ended by an error that may need time to pass. One that was killed has none."""
        return bool(record.error) and time.monotonic() < self._not_before.get(record.id, 0)

    def _jobs(self) -> list[Any]:
        """Return the jobs of the cluster that have not ended."""
        from ray.job_submission import JobSubmissionClient

        if self._client is None:
            dashboard = cluster.own_dashboard()
            if dashboard is None:
                raise ClusterError("Ray's dashboard does not answer, so that no retraining begins")
            self._client = JobSubmissionClient(dashboard)
        return [
            job
            for job in self._client.list_jobs()
            if job.submission_id and str(job.status.value) not in ENDED
        ]

    def _submit(self, identifier: str) -> None:
        record = retraining.RETRAININGS.load(identifier)
        if not record.is_open:
            return
        if record.jobs >= MOST_JOBS:
            last = record.error or f"the log of {_name(record, record.jobs)}-… says why"
            error = f"{record.jobs} jobs failed: {last}"
            retraining.update(identifier, state="failed", error=error, ended=now())
            return
        # Counted before it is submitted: a control plane that dies in between leaves a job out, and none is run twice.
        record = retraining.update(identifier, jobs=record.jobs + 1)
        self._not_before[identifier] = time.monotonic() + PAUSE_S * 2**record.jobs
        self._client.submit_job(
            entrypoint=f"{sys.executable} -m raycls retrain run {identifier} --wait",
            submission_id=_name(record, f"{record.jobs}-{int(time.time())}"),
            entrypoint_num_cpus=0,
            runtime_env={"env_vars": {GIVE_WAY: "1"}},
        )


def _name(record: Retraining, number: object) -> str:
    return f"raycls-retrain-{record.id}-{number}"
