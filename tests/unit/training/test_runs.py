"""The sign of life that tells a run that goes on from one whose driver was killed."""

from __future__ import annotations

import json
import os
import time

from raycls.training import runs


def test_a_sign_of_life_from_another_machine_counts_for_a_while() -> None:
    sign = json.loads(runs._sign())
    assert runs._alive(json.dumps(sign)) == f"process {os.getpid()} on {sign['host']}"
    assert not runs._alive(json.dumps(sign | {"started": 0}))
    elsewhere = sign | {"host": "elsewhere"}
    assert runs._alive(json.dumps(elsewhere))
    assert not runs._alive(json.dumps(elsewhere | {"seen": time.time() - runs.SILENCE_S - 1}))
