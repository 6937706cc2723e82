"""The sign of life that tells a run that goes on from one whose driver was killed."""

from __future__ import annotations

import json
import os
import time

from raycls.tracking import resumable


def test_a_sign_of_life_from_another_machine_counts_for_a_while() -> None:
    sign = json.loads(resumable._sign())
    assert resumable._alive(json.dumps(sign)) == f"process {os.getpid()} on {sign['host']}"
    assert not resumable._alive(json.dumps(sign | {"born": "another boot/1"}))
    elsewhere = sign | {"host": "elsewhere"}
    assert resumable._alive(json.dumps(elsewhere))
    assert not resumable._alive(json.dumps(elsewhere | {"seen": time.time() - resumable.SILENCE_S - 1}))
