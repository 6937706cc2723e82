"""What a running server follows without a restart: who may use it, and for what. One small JSON file.

    state.change(lambda now: now.model_copy(update={"tokens": (*now.tokens, token)}))
    follower = state.Follower()
    asyncio.create_task(follower.follow(take_up))       # from then on, follower.now is what the file holds

The file is serving/state.json below RAYCLS_STORAGE, or below the home. Every replica reads it, those too that
autoscaling adds later. Only its owner can read the local file. Two machines that change the file of a bucket at the
same moment may lose one of the changes: buckets have no lock.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Awaitable, Callable
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raycls import home
from raycls.data import files
from raycls.data.place import Folder, Place, open_place, telling
from raycls.errors import DataError
from raycls.serving.replica.captured import CapturePolicy

Role = Literal["predict", "contribute", "admin"]
Mode = Literal["shadow", "split"]
ROLES: tuple[Role, ...] = ("predict", "contribute", "admin")
FILE, LOCK = "state.json", "serving-state.lock"
LOCAL_S, REMOTE_S = 0.5, 2.0  # the time between two looks at the file, on this machine and in a bucket

logger = logging.getLogger("ray.serve")


class Token(BaseModel):
    """One named token, of which only the digest is kept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}$")
    roles: tuple[Role, ...] = Field(min_length=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    created: str = Field(description="date and time, ISO 8601, UTC")


class Experiment(BaseModel):
    """A challenger on live traffic: see raycls/serving/replica/experiment.py."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    champion: str = Field(description="NAME/VERSION")
    challenger: str = Field(description="NAME/VERSION")
    mode: Mode
    share: float = Field(gt=0, le=1, description="of the requests")
    started: str = Field(description="date and time, ISO 8601, UTC")
    by: str = Field(description="who started it")


class Trigger(BaseModel):
    """When a model is retrained by itself: see raycls/lifecycle/triggers.py."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field(min_length=1, description="name of a registered model")
    accepted: int = Field(0, ge=0, description="accepted pictures since the last retraining; 0: not for that")
    drift: bool = Field(False, description="where the last window of live pictures alarms")
    every_days: float = Field(0, ge=0, description="days since the last retraining; 0: not for that")
    then: Literal["challenger", "promote", "nothing"] = Field(
        "challenger", description="what the new version becomes where it passes the comparison"
    )
    preset: str = Field("fast", description="of the training: smoke, quick, fast, strong or accurate")

    @property
    def is_on(self) -> bool:
        return bool(self.accepted or self.drift or self.every_days)


class ServingState(BaseModel):
    """The whole file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tokens: tuple[Token, ...] = ()
    experiment: Experiment | None = None
    triggers: tuple[Trigger, ...] = ()
    capture: CapturePolicy | None = Field(
        None, description="which pictures are kept; none: no picture, and the usual age"
    )
    signing_key: str = Field("", description="hex; replicas sign the ids of predictions with it")

    def has(self, role: Role) -> bool:
        """Return whether a token was made for the role. An admin token does not close /predict for others."""
        return any(
            role in token.roles or (role != "predict" and "admin" in token.roles) for token in self.tokens
        )


def place() -> Place:
    """Return where the file is. Its content is secret."""
    return open_place("serving", mode=0o600)


def load(where: Place | None = None) -> ServingState:
    """Return the state; an empty one where there is no file. Raises DataError where the file cannot be read."""
    where = where or place()
    with telling():
        if not where.exists(FILE):
            return ServingState()
        content = where.get(FILE)
    try:
        return ServingState.model_validate_json(content)
    except ValidationError as error:
        problem = str(error).splitlines()[0]
        raise DataError(
            f"the server's state, {files.shown(where.full(FILE))}, is damaged: {problem}"
        ) from None


def change(changed: Callable[[ServingState], ServingState]) -> ServingState:
    """Replace the state by `changed(state)` and return it. Processes of one machine wait for each other.

    Raises DataError where the file cannot be read or written.
    """
    with home.lock(LOCK, "", wait=True), telling():
        new = changed(load())
        place().put(FILE, new.model_dump_json(indent=2).encode() + b"\n")
    return new


def ensure_signing_key() -> None:
    """Make the key where there is none. Raises DataError as `change` does."""
    if not load().signing_key:
        change(
            lambda now: (
                now if now.signing_key else now.model_copy(update={"signing_key": secrets.token_hex(32)})
            )
        )


class Follower:
    """The state as a process knows it."""

    def __init__(self) -> None:
        """Raises DataError where the state cannot be read: without it, nobody's token is known."""
        self._place = place()
        self._is_local = isinstance(self._place, Folder)  # then a look takes microseconds
        self._mark = self._marked()
        self.now = load(self._place)

    def look(self) -> bool:
        """Read the file if it may have changed; return whether it has. Where that fails, the former state stays."""
        former = self.now
        try:
            mark = self._marked()
            if mark is not None and mark == self._mark:
                return False
            self.now = load(self._place)
        except DataError as error:
            logger.error(f"raycls keeps the former state of the server: {error}")
            return False
        self._mark = mark
        return self.now != former

    def _marked(self) -> tuple[int, ...] | None:
        """Return what differs after each change of a local file; None for a bucket, whose times are whole seconds."""
        with telling():
            return self._place.mark(FILE) if isinstance(self._place, Folder) else None

    async def follow(self, take_up: Callable[[ServingState], Awaitable[None]]) -> None:
        """Look at the file again and again, and call `take_up` with the state after each look, until cancelled."""
        while True:
            try:
                await take_up(self.now)
            except Exception:
                logger.exception("raycls could not take up the state of the server")
            await asyncio.sleep(LOCAL_S if self._is_local else REMOTE_S)
            if self._is_local:
                self.look()
            else:
                await asyncio.to_thread(self.look)
