"""What Tune says of a process that died, made one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from raycls.tuning.callbacks import UNKNOWN, why_died

NEVER_BEGAN = """Failure # 1 (occurred at 2026-01-14_10-15-00)
The actor died because of an error raised in its creation task, ray::trial_of_pets.__init__()
  File "trial.py", line 25, in <module>
ImportError: cannot import name 'StorageError'
"""
KILLED = """Failure # 1 (occurred at 2026-01-14_10-15-00)
The actor died unexpectedly before finishing this task.
"""


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NEVER_BEGAN, "ImportError: cannot import name 'StorageError'"),
        (KILLED, UNKNOWN),
    ],
)
def test_why_a_process_died(error: str, reason: str, tmp_path: Path) -> None:
    file = tmp_path / "error.txt"
    file.write_text(error)
    assert why_died(str(file)) == reason
