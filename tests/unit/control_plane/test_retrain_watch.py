"""Which jobs the control plane submits and stops for retrainings, without a cluster."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raycls.control_plane import retrain_watch
from raycls.control_plane.retrain_watch import MOST_JOBS, PAUSE_S, RetrainWatch
from raycls.lifecycle import retraining
from raycls.lifecycle.retraining import RETRAININGS, Wanted


class Cluster:
    """Jobs, as Ray's client tells and takes them."""

    def __init__(self) -> None:
        self.running: list[str] = []
        self.submitted: list[str] = []

    def submit_job(self, *, submission_id: str, **_: Any) -> None:
        self.running.append(submission_id)
        self.submitted.append(submission_id)

    def stop_job(self, submission_id: str) -> None:
        self.running.remove(submission_id)


@pytest.fixture
def cluster(home: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster()


@pytest.fixture
def watch(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> RetrainWatch:
    watch = RetrainWatch()
    watch._client = cluster
    monkeypatch.setattr(
        watch, "_jobs", lambda: [SimpleNamespace(submission_id=name) for name in cluster.running]
    )
    return watch


def test_a_job_that_fails_is_submitted_again_after_a_pause_and_not_for_ever(
    watch: RetrainWatch, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr(retrain_watch.time, "monotonic", lambda: now.s)
    record = retraining.begin(Wanted(model="pets"), by="ada")
    for jobs in range(1, MOST_JOBS + 1):
        watch.step()
        watch.step()
        assert len(cluster.submitted) == jobs
        retraining.update(record.id, error="MLflow does not answer")
        cluster.running.clear()
        watch.step()
        assert len(cluster.submitted) == jobs, "there is a pause"
        now.s += PAUSE_S * 2**jobs
    watch.step()
    found = RETRAININGS.load(record.id)
    assert (found.state, found.error) == ("failed", f"{MOST_JOBS} jobs failed: MLflow does not answer")
    watch.step()
    assert len(cluster.submitted) == MOST_JOBS


def test_a_job_that_was_killed_is_submitted_again_at_once(watch: RetrainWatch, cluster: Cluster) -> None:
    retraining.begin(Wanted(model="pets"), by="ada")
    watch.step()
    cluster.running.clear()
    watch.step()
    assert len(cluster.submitted) == 2


def test_a_retraining_that_somebody_stops_loses_its_job(watch: RetrainWatch, cluster: Cluster) -> None:
    record = retraining.begin(Wanted(model="pets"), by="ada")
    watch.step()
    assert len(cluster.running) == 1
    retraining.stop(record.id, by="eve")
    watch.step()
    assert cluster.running == []
    other = retraining.begin(Wanted(model="pets"), by="ada")
    watch.step()
    assert [name.split("-")[2] for name in cluster.running] == [other.id]


def test_a_retraining_of_a_command_gets_no_job(watch: RetrainWatch, cluster: Cluster) -> None:
    retraining.begin(Wanted(model="pets"), by="ada", in_jobs=False)
    watch.step()
    assert cluster.submitted == []


def test_a_damaged_record_stops_no_other(watch: RetrainWatch, cluster: Cluster, home: Path) -> None:
    damaged = retraining.begin(Wanted(model="pets"), by="ada")
    retraining.begin(Wanted(model="cars"), by="ada")
    (home / "retrainings" / f"{damaged.id}.json").write_text("{")
    watch.step()
    assert len(cluster.submitted) == 1
