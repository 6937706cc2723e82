"""Studies with every search and scheduler, trials of two workers, and a node that joins in the middle."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from raycls.config import Config, override
from raycls.data.versions import open_dataset
from raycls.training.presets import preset
from raycls.tuning.plan import plan
from raycls.tuning.study import search
from tests.studies import assert_whole

pytestmark = pytest.mark.long  # each takes half a minute and more


@pytest.fixture
def base(digits_home: Path) -> Config:
    return override(preset("smoke", open_dataset("digits").info), ["epochs=6", "train_fraction=0.5"])


def test_a_trial_of_two_workers_has_the_same_record(ray_session: None, base: Config) -> None:
    spec = plan("digits", base, trials=2, max_epochs=2, workers_per_trial=2, scheduler="none")
    study = search(spec, "two-workers")
    assert_whole(study.trials, study.run_id, 2)


@pytest.mark.parametrize(("strategy", "scheduler"), [("random", "hyperband"), ("grid", "asha")])
def test_other_searches_and_schedulers_end_too(
    ray_session: None, base: Config, strategy: str, scheduler: str
) -> None:
    spec = plan("digits", base, trials=7, max_epochs=3, search=strategy, scheduler=scheduler)
    study = search(spec, f"{strategy}-{scheduler}")
    assert_whole(study.trials, study.run_id, 7)


JOINING = """
import atexit, subprocess, sys, threading, time
from ray.cluster_utils import Cluster
simulated = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
import os
os.environ["RAY_ADDRESS"] = simulated.address
from raycls.config import override
from raycls.training.presets import preset
from raycls.data.versions import open_dataset
from raycls.errors import StudyError
from raycls.tuning import record
from raycls.tuning.plan import plan
from raycls.tuning.study import search

def join():
    while True:
        try:
            if sum(trial.state == "done" for trial in record.read("joined")) >= 1:
                break
        except StudyError:
            pass
        time.sleep(0.1)
    # `simulated.add_node` sets signal handlers, which only the main thread may.
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus=1"]
    node = subprocess.Popen([*command, f"--address={simulated.address}"], stdout=subprocess.DEVNULL)
    atexit.register(node.wait)
    atexit.register(node.terminate)

threading.Thread(target=join, daemon=True).start()
config = override(preset("smoke", open_dataset("digits").info), ["epochs=20", "batch_size=16", "precision=fp32"])
trials = search(plan("digits", config, trials=6, scheduler="none"), "joined").trials
spans = sorted((trial.asked_at, trial.ended_at) for trial in trials)
overlaps = sum(later[0] < earlier[1] - 0.5 for earlier, later in zip(spans, spans[1:]))
print("overlaps", overlaps, spans)
sys.exit(0 if overlaps and spans[1][0] >= spans[0][1] - 0.5 else 1)
"""


@pytest.mark.timeout(300)
def test_a_node_that_joins_takes_trials(digits_home: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", JOINING],
        # Without a token, as a plain `ray start` makes a cluster.
        env={name: value for name, value in os.environ.items() if name != "RAY_AUTH_MODE"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
