"""The record of a retraining: what is wanted, which steps are done, and what they found.

    record = begin(Wanted(model="pets"), by="ada", key="monday")    # the same key gives the same retraining
    record = RETRAININGS.load(record.id)
    record.state, record.done["train"]["model"]

A record is retrainings/ID.json below RAYCLS_STORAGE, or below the home. raycls/lifecycle/retrain.py carries it out.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from raycls import home, registry
from raycls.config import override
from raycls.data.versions import open_dataset
from raycls.errors import ConfigError, UsageError
from raycls.lifecycle.documents import Documents, now
from raycls.models.card import ENSEMBLE, load_card
from raycls.training.presets import preset

State = Literal["waiting", "running", "done", "failed", "stopped"]
LOCK = "retrainings.lock"
TAG = "retraining"  # of a run and of a version: the retraining's id


class Wanted(BaseModel):
    """What a retraining is to do: the body of POST /retrain."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(description="name of the registered model", min_length=1, max_length=200)
    then: Literal["challenger", "promote", "nothing"] = Field(
        "challenger", description="what the new version becomes where it passes the comparison"
    )
    preset: str = Field("fast", description="of the training: smoke, quick, fast, strong or accurate")
    settings: tuple[str, ...] = Field((), description="like training.epochs=4, as `raycls train --set`")
    tune: int = Field(0, ge=0, le=10_000, description="trials of a study in place of one training; 0: none")
    trust: tuple[str, ...] = Field((), description="senders who may give more than a tenth of a class")


class Retraining(BaseModel):
    """One retraining. done: what each step that is done has found, by its name."""

    model_config = ConfigDict(frozen=True)

    id: str
    wanted: Wanted
    by: str
    created: str
    state: State = "waiting"
    step: str = Field("", description="the step that runs")
    jobs: int = Field(0, description="Ray jobs that were submitted for it")
    in_jobs: bool = Field(
        True, description="whether the control plane submits jobs for it; else a command runs it"
    )
    ended: str = ""
    error: str = Field("", description="why it has failed, or why the last try of a step has")
    done: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @property
    def is_open(self) -> bool:
        return self.state in ("waiting", "running")

    @property
    def study(self) -> str:
        """The name of the study, where settings are searched."""
        return f"{TAG}-{self.id}"


RETRAININGS = Documents("retrainings", Retraining, "retraining")


def check(wanted: Wanted) -> None:
    """Raise UnknownModelError for an unknown model, and ConfigError for a preset or settings that cannot be.

    Without this they would be told hours later, by the step that trains.
    """
    version = registry.champion(wanted.model) or registry.newest(wanted.model)
    card = load_card(registry.checkpoint(version))
    if card.network == ENSEMBLE:
        raise ConfigError(
            f"{version.reference} is an ensemble, which is not retrained: promote one of its members, or train them "
            "anew and make it again with `raycls ensemble`"
        )
    config = override(preset(wanted.preset, open_dataset(card.dataset).info, card.network), wanted.settings)
    if config.training.probe and card.network == "fastcnn":
        raise ConfigError("fastcnn is trained as a whole: choose another preset than probe")


def begin(wanted: Wanted, *, by: str, key: str = "", in_jobs: bool = True) -> Retraining:
    """Make a record and return it; the record that there is for a key that was used before.

    Raises UsageError where the key was used for something else, or where another retraining of the model is open.
    """
    identifier = (
        hashlib.sha256(f"{wanted.model}\n{key}".encode()).hexdigest()[:12] if key else secrets.token_hex(6)
    )
    with home.lock(LOCK, "", wait=True):
        former = {record.id: record for record in records()}
        if known := former.get(identifier):
            if known.wanted != wanted:
                raise UsageError("the Idempotency-Key was used for another retraining: choose another one")
            return known
        for record in former.values():
            if record.is_open and record.wanted.model == wanted.model:
                goes_on = "" if record.in_jobs else f"continue it with `raycls retrain run {record.id}`, "
                raise UsageError(
                    f"retraining {record.id} of {wanted.model} is not done yet: wait for it, {goes_on}"
                    f"or end it with `raycls retrain stop {record.id}`"
                )
        new = Retraining(id=identifier, wanted=wanted, by=by, created=now(), in_jobs=in_jobs)
        save(new)
    return new


def stop(identifier: str, *, by: str) -> Retraining:
    """End a retraining that is not done, and return it. What it has made stays; a step that runs ends unused.

    Raises UnknownRecordError, and UsageError for one that has ended.
    """
    with home.lock(LOCK, "", wait=True):
        record = RETRAININGS.load(identifier)
        if not record.is_open:
            raise UsageError(f"retraining {identifier} has ended already: it is {record.state}")
        return save(
            record.model_copy(update={"state": "stopped", "error": f"stopped by {by}", "ended": now()})
        )


def update(identifier: str, **fields: Any) -> Retraining:
    """Change fields of a retraining that is not done, and return it; one that has ended stays as it is."""
    with home.lock(LOCK, "", wait=True):
        record = RETRAININGS.load(identifier)
        return save(record.model_copy(update=fields)) if record.is_open else record


def save(record: Retraining) -> Retraining:
    """Keep the record and return it. Raises DataError where it cannot be written."""
    RETRAININGS.save(record.id, record)
    return record


def records(but: Collection[str] = ()) -> list[Retraining]:
    """Return all retrainings, the newest first. but: ids of those that are not wanted."""
    return sorted(RETRAININGS.all(but), key=lambda record: record.created, reverse=True)
