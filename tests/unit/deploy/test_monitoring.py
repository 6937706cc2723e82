"""The dashboard and the alert rules ask for what replicas count, and the handbook says what each alert means."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from raycls.drift.features import PICTURE_FEATURES
from raycls.serving.replica.drift_sums import drift_families
from raycls.serving.replica.experiment_metrics import experiment_families
from raycls.serving.replica.metrics import Metrics, exposition

ROOT = Path(__file__).parents[3]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
WINDOW = {"images": 1, "findings": [{"feature": PICTURE_FEATURES[0], "effect": 0.0, "alarm": False}]}


def _rules() -> Iterator[dict[str, Any]]:
    for group in yaml.safe_load((PROMETHEUS / "alerts.yaml").read_text())["groups"]:
        yield from group["rules"]


def _counted() -> set[str]:
    """Return the names of all series that GET /metrics may have."""
    version: Any = SimpleNamespace(name="pets", version="1", rejection=None)
    replica = Metrics("r", version, ("cat",), "torch", "cpu")
    replica.request(200, 0.004)
    families = [*replica.collect(), *experiment_families("r", None), *drift_families(WINDOW)]
    text = bytes(exposition([families]).body).decode()
    found = set()
    for family in text_string_to_metric_families(text):
        suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
        found |= {family.name + suffix, *(sample.name for sample in family.samples)}
        if family.type == "histogram":
            found |= {family.name + part for part in ("_bucket", "_sum", "_count")}
    return found


def _asked(expressions: Iterator[str]) -> set[str]:
    return {name for expression in expressions for name in re.findall(r"raycls_\w+", expression)}


def test_the_alerts_ask_for_what_is_counted() -> None:
    asked = _asked(rule["expr"] for rule in _rules())
    assert len(asked) >= 7
    assert asked <= _counted()


def test_the_dashboards_ask_for_what_is_counted() -> None:
    dashboards = [json.loads(file.read_text()) for file in (GRAFANA / "dashboards").glob("*.json")]
    panels = [panel for dashboard in dashboards for panel in dashboard["panels"]]
    asked = _asked(target["expr"] for panel in panels for target in panel["targets"])
    assert len(asked) >= 10
    assert asked <= _counted()
    assert len({dashboard["uid"] for dashboard in dashboards}) == len(dashboards) == 3


def test_the_handbook_has_a_row_for_each_alert() -> None:
    handbook = (ROOT / "docs" / "runbook.md").read_text()
    told = set(re.findall(r"^\| `(Raycls\w+)` \|", handbook, re.MULTILINE))
    assert told == {rule["alert"] for rule in _rules()}


@pytest.mark.skipif(not shutil.which("promtool"), reason="promtool is not installed")
@pytest.mark.parametrize(
    "command", [("test", "rules", "alerts_test.yaml"), ("check", "config", "prometheus.yml")], ids=" ".join
)
def test_prometheus_itself_takes_them(command: tuple[str, ...]) -> None:
    done = subprocess.run(["promtool", *command], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
