"""`raycls feedback` lists, accepts and rejects; `raycls uploads capture` changes what it is told and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from raycls.cli import app
from raycls.lifecycle.feedback import Claims, Feedback
from raycls.serving import state


def _run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == code
    return done.stdout


def test_feedback_is_listed_and_reviewed(home: Path) -> None:
    for number, label in enumerate(("cat", "dog", "dog")):
        claims = Claims(f"r{number}", "pets", "7", "cat", 0.9, 1.0)
        Feedback().record(claims, label, sender="ann", classes=("cat", "dog"))
    assert "r0" in _run("feedback", "list", "pets")
    _run("feedback", "accept", "r0", "r1", "--by", "eve")
    assert "r2  rejected: cat, right is dog" in _run("feedback", "reject", "r2", "--by", "eve")
    assert "pets/7: 1 of 2 accepted answers are right (50.0%)" in _run("feedback", "list", "pets")
    found = json.loads(_run("feedback", "list", "pets", "--state", "accepted", "--json"))
    assert [each["claims"]["request_id"] for each in found["feedback"]] == ["r0", "r1"]
    assert found["accuracy"] == {"7": {"judged": 2, "right": 1, "share": 0.5}}


def test_capture_changes_what_it_is_told(home: Path) -> None:
    assert "no picture is kept" in _run("uploads", "capture")
    _run("uploads", "capture", "--share", "0.5", "--days", "3", "--share-of-class", "cat=1")
    policy = json.loads(_run("uploads", "capture", "--most-confidence", "0.6", "--json"))
    assert (policy["share"], policy["days"], policy["most_confidence"]) == (0.5, 3, 0.6)
    assert policy["share_of_class"] == {"cat": 1}
    policy = json.loads(_run("uploads", "capture", "--share", "0.1", "--json"))
    assert (policy["share"], policy["share_of_class"]) == (0.1, {"cat": 1})
    said = _run("uploads", "capture", "--share", "0")
    assert "deleted after 3 days" in said
    now = state.load().capture
    assert now is not None
    assert (now.is_on, now.days) == (False, 3)
