"""What begins a retraining by itself: enough accepted pictures, drift, or time. By default nothing, at most one a day.

set_trigger(Trigger(model="pets", accepted=200))
reason = due(trigger, found, now)           # "" or why a retraining begins
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from raycls import registry
from raycls.errors import UsageError
from raycls.lifecycle import drift_windows, retraining
from raycls.lifecycle.retraining import Retraining, Wanted
from raycls.lifecycle.uploads import Uploads
from raycls.models.card import load_card
from raycls.serving import state
from raycls.serving.state import ServingState, Trigger

LEAST = timedelta(days=1)  # after any retraining of the model, before one begins by itself


@dataclass(frozen=True)
class Found:
    """What is known of a model now. last: when its last retraining began.

    accepted: pictures accepted since the last one that did not fail. drifts: a window alarms that ended since the last.
    """

    accepted: int
    drifts: bool
    last: datetime | None


def set_trigger(trigger: Trigger) -> None:
    """Keep a trigger in place of the model's former one.

    Raises UnknownModelError for an unknown model, ConfigError for an unknown preset, UsageError for a trigger that
    begins nothing, and DataError.
    """
    if not trigger.is_on:
        raise UsageError("say when to retrain: --accepted, --drift or --every-days")
    retraining.check(_wanted(trigger))
    _replace(trigger.model, (trigger,))


def trigger_of(model: str) -> Trigger | None:
    """Return the model's trigger, or None. Raises DataError."""
    return next((each for each in state.load().triggers if each.model == model), None)


def described(trigger: Trigger) -> str:
    """Return in words when a trigger begins a retraining, and what follows."""
    causes = [
        f"after {trigger.accepted:,} accepted pictures" if trigger.accepted else "",
        "where the last window of live pictures drifts" if trigger.drift else "",
        f"{trigger.every_days:g} days after the last time" if trigger.every_days else "",
    ]
    return f"{', or '.join(filter(None, causes))}; then {trigger.then}"


def remove_trigger(model: str) -> None:
    """Retrain the model only when somebody says so."""
    _replace(model, ())


def _replace(model: str, new: tuple[Trigger, ...]) -> None:
    def replaced(now: ServingState) -> ServingState:
        others = tuple(each for each in now.triggers if each.model != model)
        return now.model_copy(update={"triggers": (*others, *new)})

    state.change(replaced)


def look(trigger: Trigger) -> Found:
    """Return what is known now of the trigger's model. Raises UnknownModelError, RegistryError and DataError."""
    mine = [record for record in retraining.records() if record.wanted.model == trigger.model]
    last = datetime.fromisoformat(mine[0].created) if mine else None
    used = [record for record in mine if record.state not in ("failed", "stopped")]
    version = registry.champion(trigger.model) or registry.newest(trigger.model)
    dataset = load_card(registry.checkpoint(version)).dataset
    since = datetime.fromisoformat(used[0].created).timestamp() if used else 0.0
    accepted = sum(
        record.state == "accepted" and bool(record.history) and record.history[-1].time > since
        for record in Uploads.of_process().of(dataset)
    )
    windows = [window for window in drift_windows.windows() if window.version == version.reference]
    newest = windows[0] if windows else None
    is_new = newest is not None and (last is None or datetime.fromisoformat(newest.ended) > last)
    return Found(accepted, bool(newest and is_new and newest.alarms), last)


def due(trigger: Trigger, found: Found, now: datetime) -> str:
    """Return why a retraining begins now, or "". now: with a time zone."""
    if found.last and now - found.last < LEAST:
        return ""
    if trigger.accepted and found.accepted >= trigger.accepted:
        return f"{found.accepted:,} pictures were accepted"
    if trigger.drift and found.drifts:
        return "the pictures of the last window differ from those of val"
    if trigger.every_days and found.last is None:
        return "the model was never retrained"
    if trigger.every_days and found.last and now - found.last >= timedelta(days=trigger.every_days):
        return f"the last retraining is {trigger.every_days:g} days ago"
    return ""


def begin(trigger: Trigger, reason: str, now: datetime) -> Retraining:
    """Begin the retraining. A second call on the same day finds the first one's. Raises as retraining.begin."""
    return retraining.begin(
        _wanted(trigger), by=f"trigger: {reason}", key=f"trigger {now.date().isoformat()}"
    )


def _wanted(trigger: Trigger) -> Wanted:
    return Wanted(model=trigger.model, then=trigger.then, preset=trigger.preset)
