"""What a call refuses before it starts Ray, each time with the way out."""

from __future__ import annotations

import errno
import fcntl
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from raycls import registry
from raycls.data.sources.pictures import PictureSource
from raycls.errors import BrokenOffError, BusyError, DataError, UsageError
from raycls.scoring import score
from raycls.scoring.ledger import Ledger, Listing, Totals
from raycls.scoring.output import alone, check_apart, check_ours, counted
from raycls.scoring.rows import Counts
from raycls.scoring.tally import Tally
from tests.unit.scoring.conftest import MakeTask

module = import_module("raycls.scoring.score")  # the function has the same name


class Resolved(Exception):
    """The call came as far as the registry."""


@pytest.fixture(autouse=True)
def _no_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(reference: str) -> None:
        raise Resolved(reference)

    monkeypatch.setattr(registry, "resolve", resolve)


def call(source: Path | str, output: Path | str, **options: Any) -> None:
    score("digits", str(source), str(output), **({"top_k": 3} | options))


def test_the_same_call_goes_on_with_the_version_of_the_start(make_task: MakeTask, photos: Path) -> None:
    task = make_task(photos)
    with pytest.raises(Resolved, match="digits/7"):
        call(photos, task.output)


@pytest.mark.parametrize("options", [{"top_k": 4}, {"format": "csv"}, {"embedding": True}])
def test_another_call_for_the_same_output_is_refused(
    make_task: MakeTask, photos: Path, options: dict[str, Any]
) -> None:
    task = make_task(photos)
    (name,) = options
    with pytest.raises(UsageError, match=f"scores of a call with {name} .*same arguments, or a new output"):
        call(photos, task.output, **options)


def test_another_model_or_source_for_the_same_output_is_refused(make_task: MakeTask, photos: Path) -> None:
    task = make_task(photos)
    with pytest.raises(
        UsageError, match=r"with source .*photos, and this one has source .*photos/0: give the same"
    ):
        call(photos / "0", task.output)
    with pytest.raises(UsageError, match="with model digits, and this one has model digits/7"):
        score("digits/7", str(photos), task.output, top_k=3)


def test_values_after_a_question_mark_are_compared_and_not_written(make_task: MakeTask, photos: Path) -> None:
    """They may hold a password, or name another server."""
    task = make_task(f"file://{photos}?use_mmap=true")
    assert task.plan.source == f"file://{photos}?use_mmap=…"
    assert "true" not in task.plan.model_dump_json(include={"source", "source_digest"})
    with pytest.raises(
        UsageError, match="with other values after the question mark: give the same ones, or a"
    ):
        call(f"file://{photos}?use_mmap=false", task.output)
    with pytest.raises(Resolved):
        call(f"file://{photos}?use_mmap=true", task.output)


def test_a_finished_output_says_so(
    make_task: MakeTask, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = make_task(photos)
    Ledger(task.output).finish(Totals(pictures=34, errors=4, rejected=None, ended="2026-01-02 00:00:00"))
    found = score("digits", str(photos), task.output, top_k=3)
    assert (found.pictures, found.errors, found.scored, found.version) == (34, 4, 0, "digits/7")
    said = " ".join(capsys.readouterr().err.split())
    assert "was finished on 2026-01-02 00:00:00: 34 pictures by digits/7" in said
    assert "To score what is new, name a new output" in said


def test_a_folder_of_other_files_is_no_output(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "to-a-friend.txt").touch()
    with pytest.raises(UsageError, match="letters holds other files than scores"):
        call(photos, tmp_path / "letters")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file cannot be written: File exists. Name a folder"):
        call(photos, tmp_path / "file")


def test_an_output_in_the_source_is_refused(photos: Path) -> None:
    for output in (photos, photos / "scores"):
        with pytest.raises(UsageError, match="lies in the source: name a folder beside it"):
            call(photos, output)
    with pytest.raises(UsageError, match="lies in the source"):
        call(f"file://{photos}", f"file://{photos}/scores")
    with pytest.raises(Resolved):
        call(photos, f"{photos}-scores")


def test_an_output_that_lies_in_the_source_by_another_name_is_refused(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(photos)
    (tmp_path / "a b").symlink_to(photos)
    for source, output in (
        (tmp_path / "link", photos / "scores"),
        (photos, tmp_path / "link" / "scores"),
        (photos, f"file://{photos}/scores"),
        (f"file://{photos}", photos / "scores"),
        (photos, photos / "0" / ".." / "scores"),
        (f"file://{tmp_path}/a%20b", tmp_path / "link" / "scores"),
    ):
        with pytest.raises(UsageError, match="lies in the source"):
            call(source, output)
    with pytest.raises(Resolved):
        call(photos, tmp_path / "link" / ".." / "scores")


@pytest.mark.parametrize(
    ("output", "inside"),
    [
        ("s3://bucket/photos/scores", True),
        ("s3://KEY:SECRET@bucket/photos/scores?region=eu", True),
        ("s3://bucket/photos-2", False),
        ("s3://other/photos/scores", False),
    ],
)
def test_an_output_in_a_bucket_is_compared_without_secrets(output: str, inside: bool) -> None:
    source = PictureSource("folder", "s3://A:B@bucket/photos?region=us")
    if inside:
        with pytest.raises(UsageError, match="lies in the source") as refusal:
            check_apart(source, output)
        assert "SECRET" not in str(refusal.value)
    else:
        check_apart(source, output)


def test_scores_that_something_else_has_changed_are_told(make_task: MakeTask, photos: Path) -> None:
    task = make_task(photos)
    ledger = Ledger(task.output)
    assert counted(ledger, task.plan, set()).pictures == 0
    for content in (None, b"no table", b""):
        if content is not None:
            ledger.write_part(7, content, "parquet")
        with pytest.raises(
            DataError, match=r"part-00000007.parquet of the output cannot be read: .*same command"
        ):
            counted(ledger, task.plan, {7})
    ledger.end_listing(Listing(parts=0, pictures=3, fingerprint=""))
    with (
        Tally("scoring", Counts(2, 0, 0), ledger) as tally,
        pytest.raises(DataError, match=r"have 2 rows and the listing has 3 pictures: .*Write to a new one"),
    ):
        module._totals(ledger, task.plan, set(), tally)


def test_another_call_that_took_the_output_is_told(make_task: MakeTask, photos: Path) -> None:
    task = make_task(photos)
    ledger = Ledger(task.output)
    check_ours(ledger, task.plan)
    for same in ({"begun": "later"}, {"engine": None}):
        ledger.begin(task.plan.model_copy(update=same))
        check_ours(ledger, task.plan)
    ledger.begin(task.plan.model_copy(update={"version": "digits/8"}))
    with pytest.raises(
        BrokenOffError, match=r"another call has begun other scores .* a new output of its own"
    ):
        check_ours(ledger, task.plan)
    (Path(task.output) / "_ledger" / "plan.json").unlink()
    with pytest.raises(BrokenOffError):
        check_ours(ledger, task.plan)


def test_a_file_system_without_locks_is_no_other_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with alone(str(tmp_path / "scores")):
        assert (tmp_path / "scores").is_dir()


def test_a_source_without_a_picture_is_refused_and_leaves_no_folder(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(UsageError, match="none has no picture"):
        call(tmp_path / "none", tmp_path / "scores")
    assert not (tmp_path / "scores").exists()


def test_two_calls_for_one_folder_do_not_run_at_once(make_task: MakeTask, photos: Path) -> None:
    task = make_task(photos)
    descriptor = os.open(task.output, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with pytest.raises(BusyError, match="another process scores into"):
            call(photos, task.output)
    finally:
        os.close(descriptor)
    with pytest.raises(Resolved):
        call(photos, task.output)
