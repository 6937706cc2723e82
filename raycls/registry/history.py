"""The history of a model's champions: every promotion, refusal and rollback, which nothing changes afterwards.

    with recorded("rollback", version, champion, by="mia@laptop", reason="errors since noon"):
        registry.set_alias(version.name, version.version)
    events("pets")[0].kind

Each event is a run of its own in MLflow's experiment EXPERIMENT. So the history is where the registry is, with any
MLflow server; everybody who shares the registry shares it; and it outlives the versions that it names, which tags of a
version would not. Tags hold the fields, and the artifact `comparison.json` all figures.
"""

from __future__ import annotations

import getpass
import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, cast

from raycls import tracking
from raycls.registry.compare import Comparison
from raycls.registry.model_version import ModelVersion
from raycls.registry.policy import PromotionPolicy

EXPERIMENT = (
    "raycls/promotions"  # no dataset has a name with a slash, and datasets name the other experiments
)
LONGEST_REASON = 2000  # characters

# first: there was no champion; forced: without the comparison; refusal: the champion stays
Kind = Literal["first", "promotion", "forced", "refusal", "rollback"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """One event. `version` is the number of its version, `former` that of the champion before it, if any.

    at: seconds since 1970. by: user@host, the name of a token, or what acted alone. figures: those that decided. done:
    False while the event goes on, and where raycls was killed during it: nobody knows whether the champion changed.
    """

    at: float
    model: str
    kind: Kind
    version: str
    former: str | None
    by: str
    reason: str
    policy: dict[str, Any]
    figures: dict[str, float]
    done: bool
    run_id: str

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def own_name() -> str:
    """Return user@host of this process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


@contextmanager
def recorded(
    kind: Kind,
    version: ModelVersion,
    champion: ModelVersion | None,
    *,
    by: str | None,
    reason: str,
    policy: PromotionPolicy | None = None,
    comparison: Comparison | None = None,
) -> Iterator[None]:
    """Record an event around the change that it is about. If the change raises, the event counts as not happened.

    by: default `own_name`.
    """
    policy = comparison.policy if comparison else policy
    tags = {
        "event": kind,
        "model": version.name,
        "version": version.version,
        "former": champion.version if champion else "",
        "by": by or own_name(),
        "reason": reason[:LONGEST_REASON],
        "policy": policy.model_dump_json() if policy else "{}",
        "figures": json.dumps(comparison.figures if comparison else {}),
    }
    with tracking.run(EXPERIMENT, f"{version.name}-{version.version}-{kind}", tags) as run:
        if comparison:
            run.log_json(comparison.as_json(), "comparison.json")
        yield


def record_refusal(
    version: ModelVersion,
    champion: ModelVersion | None,
    *,
    by: str | None,
    reason: str,
    policy: PromotionPolicy,
    comparison: Comparison | None = None,
) -> None:
    """Record that the version was not promoted. For the arguments see `recorded`."""
    with recorded("refusal", version, champion, by=by, reason=reason, policy=policy, comparison=comparison):
        pass


def events(name: str) -> list[Event]:
    """Return the events of a model, the latest first. Events whose change failed are left out."""
    found = tracking.find_runs(EXPERIMENT, f"tags.model = '{name}'")
    return [
        Event(
            at=run.info.start_time / 1000,
            model=name,
            kind=cast(Kind, run.data.tags["event"]),
            version=run.data.tags["version"],
            former=run.data.tags["former"] or None,
            by=run.data.tags["by"],
            reason=run.data.tags["reason"],
            policy=json.loads(run.data.tags["policy"]),
            figures=json.loads(run.data.tags["figures"]),
            done=run.info.status == "FINISHED",
            run_id=run.info.run_id,
        )
        for run in found
        if run.info.status in ("FINISHED", "RUNNING")
    ]


def former_champions(history: Sequence[Event], current: str | None) -> list[str]:
    """Return the numbers of the champions before the current one, the latest first, each once.

    history: the latest first, as `events` returns it. A rollback takes back the promotions after its target, so that a
    second rollback goes further back instead of forward again.
    """
    line: list[str] = []  # the champions, the latest last
    for event in reversed(history):
        if event.kind == "refusal" or not event.done:
            continue
        if event.former and event.former not in line[-1:]:
            line.append(event.former)
        if event.kind == "rollback" and event.version in line:
            while line[-1] != event.version:
                line.pop()
        elif event.version not in line[-1:]:
            line.append(event.version)
    return list(dict.fromkeys(number for number in reversed(line) if number != current))
