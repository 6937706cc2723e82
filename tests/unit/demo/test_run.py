"""The demo: what it checks first, its search space, and the times of its parts."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from raycls.data.versions import open_dataset
from raycls.demo.run import PRESET, Parts, _configuration, _space, run
from raycls.errors import ClusterError
from raycls.training.presets import preset
from raycls.tuning import space as spaces

SERVE_CONFIG = Path(__file__).parents[3] / "serve_config.yaml"


def test_a_port_in_use_is_an_error_before_any_part(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ClusterError, match=f"port {port} is in use by another program"):
            run(SERVE_CONFIG, port=port)
    assert not (home / "datasets").exists()


def test_the_search_begins_with_the_preset_and_keeps_its_batches_large(digits_home: Path) -> None:
    dataset = open_dataset("digits")
    config = _configuration(dataset)
    space = _space(config)
    batch_size = preset(PRESET, dataset.info).training.batch_size
    assert set(space) == {"training.batch_size", "optim.lr", "network.dropout"}
    assert spaces.own_values(space, config) is not None
    assert space["training.batch_size"].ends() == (batch_size // 2, batch_size)
    spaces.check(space, config)


def test_the_parts_have_a_line_each_and_add_up_to_the_total(capsys: pytest.CaptureFixture[str]) -> None:
    parts = Parts()
    for part in ("data", "cluster"):
        time.sleep(0.01)
        parts.end(part, "done")
    assert list(parts.seconds) == ["data", "cluster"]
    assert min(parts.seconds.values()) >= 0.01
    assert sum(parts.seconds.values()) == pytest.approx(parts.total, abs=0.1)
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "=== data",
        "=== cluster",
    ]
