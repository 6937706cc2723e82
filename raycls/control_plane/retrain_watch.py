"""Submits a Ray job for each retraining that is not done, and again where a job has died.

    task = asyncio.create_task(RetrainWatch().run())

The records are what is wanted; this loop makes it so, also after a restart of the control plane or of the cluster.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

from raycls import local_http
from raycls.cluster.environment import GIVE_WAY
from raycls.control_plane.loop import forever
from raycls.lifecycle import retraining
from raycls.lifecycle.documents import now
from raycls.lifecycle.retraining import Retraining

PERIOD_S = 2.0
MOST_JOBS = 5  # for one retraining: if each of them dies, a person must look at the machine
ENDED = ("SUCCEEDED", "FAILED", "STOPPED")


class RetrainWatch:
    """The loop of one control plane."""

    def __init__(self) -> None:
        self._client: Any = None

    async def run(self) -> None:
        """Run until cancelled."""
        await forever(PERIOD_S, lambda: asyncio.to_thread(self.step), "watch the retrainings")

    def step(self) -> None:
        """Look once, and submit what is missing."""
        for record in retraining.records():
            if record.is_open and record.in_jobs and not self._works(record):
                self._submit(retraining.RETRAININGS.load(record.id))

    def _works(self, record: Retraining) -> bool:
        """Return whether the retraining's last job is on its way."""
        import ray
        from ray.job_submission import JobSubmissionClient

        if self._client is None:
            self._client = JobSubmissionClient(ray.get_runtime_context().gcs_address)
            local_http.exempt(self._client.get_address())
        mine = [
            job for job in self._client.list_jobs() if (job.submission_id or "").startswith(_name(record, ""))
        ]
        return any(str(job.status.value) not in ENDED for job in mine)

    def _submit(self, record: Retraining) -> None:
        if not record.is_open:
            return
        if record.jobs >= MOST_JOBS:
            error = f"{record.jobs} jobs died; the log of {_name(record, record.jobs)}-… says why"
            retraining.save(record.model_copy(update={"state": "failed", "error": error, "ended": now()}))
            return
        # Counted before it is submitted: a control plane that dies in between leaves a job out, and none is run twice.
        record = retraining.save(record.model_copy(update={"jobs": record.jobs + 1}))
        self._client.submit_job(
            entrypoint=f"{sys.executable} -m raycls retrain run {record.id}",
            submission_id=_name(record, f"{record.jobs}-{int(time.time())}"),
            entrypoint_num_cpus=0,
            runtime_env={"env_vars": {GIVE_WAY: "1"}},
        )


def _name(record: Retraining, number: object) -> str:
    return f"raycls-retrain-{record.id}-{number}"
