"""The actor of Ray Data that scores: only the numbers of parts come in, and what they hold goes out.

numbers.map_batches(Actor, fn_constructor_args=(task,), batch_size=1, batch_format="numpy", …)
"""

from __future__ import annotations

import os
import time
from typing import Any

import numpy as np

from raycls.cluster.environment import LOWEST_PRIORITY
from raycls.errors import RayclsError
from raycls.scoring.rows import Counts
from raycls.scoring.scorer import Scorer, Task


class Actor:
    """Scores one part with each call, and answers one row: `part`, the fields of Counts, `began` and `failure`.

    began: when the call began, seconds since 1970. failure: "", or what ends the whole work. An error that was raised
    instead would come to the driver without its type.
    """

    def __init__(self, task: Task):
        import ray

        if task.give_way:
            os.setpriority(os.PRIO_PROCESS, 0, LOWEST_PRIORITY)
        self._failure = ""
        try:
            again = bool(ray.get_runtime_context().was_current_actor_reconstructed)
            self._scorer = Scorer(task, again=again)
        except RayclsError as error:
            self._failure = str(error)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, list[Any]]:
        began = time.time()
        (part,), (failure,) = batch["part"].tolist(), batch["failure"].tolist()
        found, failure = Counts(), failure or self._failure
        if not failure:
            try:
                found = self._scorer.score(part)
            except RayclsError as error:
                failure = str(error)
        row = {"part": part, **found._asdict(), "began": began, "failure": failure}
        return {name: [value] for name, value in row.items()}
