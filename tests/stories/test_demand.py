"""GPU nodes come when a study asks for them, and go. Ray's own autoscaler starts them, with a provider that pretends.

A node is a process here, and its GPU a number: what the trials compute, they compute on CPUs.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import hosts
from harness.hosts import Host
from ray.autoscaler._private import fake_multi_node
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID

from raycls.cluster.environment import ensure_token, environment
from tests.predict import encoded

pytestmark = [
    pytest.mark.skipif(bool(hosts.missing()), reason=hosts.missing()),
    pytest.mark.timeout(600),
]

BIN = Path(sys.executable).parent
HEAD = "ray.head.default"  # the name that Ray's autoscaler expects
CONFIG = {
    "cluster_name": "pretended",
    "max_workers": 2,
    "idle_timeout_minutes": 0.1,
    "upscaling_speed": 1.0,
    "provider": {"type": "fake_multinode", "head_node_id": FAKE_HEAD_NODE_ID, "launch_multiple": True},
    "auth": {},
    "head_node_type": HEAD,
    "available_node_types": {
        HEAD: {"resources": {"CPU": 2}, "node_config": {}, "max_workers": 0},
        "gpu": {
            "resources": {"CPU": 2, "GPU": 1, "object_store_memory": 200 * 2**20},
            "node_config": {},
            "min_workers": 0,
            "max_workers": 2,
        },
    },
    "file_mounts": {},
    "cluster_synced_files": [],
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
}
GPUS = """
import ray
ray.init(log_to_driver=False)
print(sum(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]), len(ray.nodes()))
"""
# The search alone: the winner's training would ask the pretended GPU to communicate.
SEARCH = """
import ray
from raycls.cli.training import configuration
from raycls.tuning import study
from raycls.tuning.plan import plan
config = configuration("digits", "smoke", None, None, None)
spec = plan("digits", config, trials=4, search="random", max_epochs=1, gpus_per_trial=1, at_once=2)
print(len(study.search(spec, "pretended").best.values), len(ray.nodes()))
"""


@pytest.fixture
def head() -> Iterator[Host]:
    """A head with two CPUs, whose autoscaler may start two nodes with a GPU each."""
    ensure_token()
    with hosts.hosts(1) as (host,):
        host.environment = environment() | {
            "OMP_NUM_THREADS": "1",
            "RAYCLS_HOME": str(host.folder / "home"),
            "RAY_ADDRESS": "127.0.0.1:6379",
            # As ray.cluster_utils.AutoscalingCluster sets them.
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
        }
        config = host.folder / "autoscaling.json"
        config.write_text(json.dumps(CONFIG))
        # Ray's wheel lacks the provider's defaults. The host alone sees the folder that has them.
        own = Path(fake_multi_node.__file__).parent
        shutil.copytree(own, host.folder / "provider")
        (host.folder / "provider" / "example.yaml").write_text(json.dumps(CONFIG))
        host.run(["mount", "--bind", str(host.folder / "provider"), str(own)])
        host.run(
            [str(BIN / "ray"), "start", "--head", f"--autoscaling-config={config}", "--num-cpus=2"],
            timeout=180,
        )
        yield host


def _python(head: Host, program: str) -> tuple[list[float], str]:
    """Run a program on the head. Return the numbers in its last line, and its stderr."""
    done = head.run([sys.executable, "-c", program], timeout=400)
    return [float(word) for word in done.stdout.splitlines()[-1].split()], done.stderr


@pytest.mark.long
def test_gpu_nodes_come_for_a_study_and_for_a_training_and_go(head: Host) -> None:
    head.run([str(BIN / "raycls"), "data", "prepare", "digits"])
    assert _python(head, GPUS)[0] == [0, 1]
    (settings, nodes), told = _python(head, SEARCH)
    assert "no node has a GPU now: Ray is asked for 1 for each trial" in told
    assert settings > 0
    assert nodes == 3, "two trials were asked for at once, so that two nodes came"
    _gone(head)
    # The training gets its node too, and there finds that the GPU is pretended.
    trained = head.run(
        [str(BIN / "raycls"), "train", "digits", "--preset", "smoke", "--use-gpu"], check=False
    )
    assert "the cluster has 0 GPUs now and the training needs 1: Ray is asked for them" in trained.stderr
    assert "at least one CUDA device" in trained.stderr.splitlines()[-1]


def _gone(head: Host) -> None:
    deadline = time.monotonic() + 90
    while _python(head, GPUS)[0][0]:
        assert time.monotonic() < deadline, "the GPU nodes do not go"
        time.sleep(1)


def test_a_head_without_cpus_decodes_its_own_files() -> None:
    """The usual head of a cluster takes no work, and no other node has the files that are on it."""
    ensure_token()
    with hosts.hosts(1) as (host,):
        home = {"RAYCLS_HOME": str(host.folder / "home"), "RAY_ADDRESS": "127.0.0.1:6379"}
        host.environment = environment() | home
        for number in range(300):
            folder = host.folder / "photos" / "ab"[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number}.png").write_bytes(encoded(number))
        host.run([str(BIN / "ray"), "start", "--head", "--num-cpus=0"], timeout=180)
        host.run([str(BIN / "raycls"), "data", "prepare", str(host.folder / "photos")], timeout=180)
        assert "photos@1" in host.run([str(BIN / "raycls"), "data", "list"]).stdout
