"""Carry out a retraining: next dataset version, training from the champion, comparison, and what follows.

    record = run("3f2a91c07b52")        # a Ray job does this; after a kill, the next call goes on where it ended

Every step writes what it found into the record (raycls/lifecycle/retraining.py), and finds what an interrupted try has
already made: no dataset version, no model version and no decision is made twice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from raycls import home, progress, registry, tracking
from raycls.cluster.environment import give_way
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_dataset
from raycls.errors import (
    BrokenOffError,
    ClusterError,
    DataError,
    RayclsError,
    RefusedError,
    RegistryError,
    TrainingError,
    UsageError,
)
from raycls.lifecycle.documents import now
from raycls.lifecycle.next_version import add_uploads
from raycls.lifecycle.retraining import RETRAININGS, TAG, Retraining, update
from raycls.models.card import load_card
from raycls.registry import ModelVersion, history
from raycls.registry.policy import PromotionPolicy
from raycls.training.filing import TrainingResult
from raycls.training.recipes import configured
from raycls.training.refit import before_refit
from raycls.training.trainer import resume, train

# What may be otherwise at the next try: a worker was killed, or the registry, the storage or the cluster do not answer.
PASSING = (BrokenOffError, RegistryError, DataError, ClusterError)


def run(identifier: str, *, wait: bool = False) -> Retraining:
    """Do the steps that are not done, and return the record. One process at a time does them; wait: for another one.

    An error that may pass (PASSING), and one that is not raycls's own, leave the retraining open; any other ends it as
    failed. Raises UnknownRecordError, ClusterError where another process is at it, UsageError where somebody stops it,
    and what a step raises.
    """
    give_way()
    RETRAININGS.load(identifier)  # an unknown one is said at once
    busy = f"another process works on retraining {identifier}: wait for it"
    with home.lock(f"retraining-{identifier}.lock", busy, wait=wait):
        record = RETRAININGS.load(identifier)
        if not record.is_open:
            return record
        try:
            for name, step in STEPS.items():
                record = _done(record, name, step)
        except PASSING as error:
            update(identifier, error=str(error))
            raise
        except RayclsError as error:
            update(identifier, state="failed", error=str(error), ended=now())
            raise
        return update(identifier, state="done", step="", error="", ended=now())


def _done(record: Retraining, name: str, step: Callable[[Retraining], dict[str, Any]]) -> Retraining:
    if name in record.done:
        return record
    progress.say(f"retraining {record.id} of {record.wanted.model}: {name}")
    record = _open(update(record.id, state="running", step=name, error=""))
    found = step(record)
    return _open(update(record.id, done={**record.done, name: found}))


def _open(record: Retraining) -> Retraining:
    """Return the record. Raises UsageError where somebody has ended the retraining."""
    if not record.is_open:
        raise UsageError(f"retraining {record.id} was {record.error}")
    return record


def _data(record: Retraining) -> dict[str, Any]:
    """Make the next dataset version, where pictures were accepted since the last one."""
    dataset = _dataset_of(_start(record))
    added = add_uploads(dataset.info.name, trusted=record.wanted.trust)
    info = added.dataset.info
    return {"dataset": info.reference, "added": added.count, "waiting": added.waiting}


def _train(record: Retraining) -> dict[str, Any]:
    """Train on it from the champion's weights, and register the result as the next version."""
    start, dataset = _start(record), open_dataset(record.done["data"]["dataset"])
    card = load_card(registry.checkpoint(start))
    config = configured(dataset.info, record.wanted.preset, settings=record.wanted.settings, init=card)
    how = _tuned if record.wanted.tune else _trained
    version = how(record, dataset, config, start)
    return {
        "model": version.reference,
        "run_id": version.run_id,
        "init": start.reference,
        "metrics": version.metrics,
    }


def _trained(record: Retraining, dataset: PackedDataset, config: Any, start: ModelVersion) -> ModelVersion:
    """Train, or find what an interrupted try has trained."""
    for former in tracking.find_runs(dataset.info.name, f"tags.{TAG} = '{record.id}'"):
        version = registry.of_run(former.info.run_id)
        if version and former.info.status == "FINISHED":
            return version
        return _version_of(resume(dataset.info.name, former.info.run_id))
    result = train(
        dataset.info.reference,
        config,
        model=record.wanted.model,
        lineage={TAG: record.id},
        init=start.reference,
        workers=1,
    )
    return _version_of(result)


def _version_of(result: TrainingResult) -> ModelVersion:
    if result.version is None:
        raise TrainingError(f"run {result.run_id} registered no version")
    return result.version


def _tuned(record: Retraining, dataset: PackedDataset, config: Any, start: ModelVersion) -> ModelVersion:
    """Search settings, and train the winner. The study has the retraining's name."""
    from raycls.tracking import resumable
    from raycls.tuning import study as studies
    from raycls.tuning.plan import plan
    from raycls.tuning.spec import StudySpec

    name = record.study
    for former in resumable.tagged(dataset.info.name, {"study": name}):  # the winner's training
        version = registry.of_run(former.info.run_id)
        if version and former.info.status == "FINISHED":
            return version
    if resumable.exists(StudySpec, name, dataset.info.name):
        return _version_of(studies.resume(dataset.info.name, name).training)
    spec = plan(
        dataset.info.reference,
        config,
        trials=record.wanted.tune,
        init=start.reference,
        model=record.wanted.model,
        promote=False,
    )
    return _version_of(studies.tune(spec, name).training)


def _compare(record: Retraining) -> dict[str, Any]:
    """Compare it with the champion, on the pictures of `gate`. Nothing changes."""
    from raycls.registry.compare import compare

    champion = registry.champion(record.wanted.model)
    if champion is None:
        return {"verdict": "first", "reason": "there is no champion"}
    return compare(registry.resolve(record.done["train"]["model"]), champion, PromotionPolicy()).as_json()


def _decide(record: Retraining) -> dict[str, Any]:
    """Do what was asked for where the new version passes."""
    wanted, found = record.wanted, record.done["compare"]
    version = registry.resolve(record.done["train"]["model"])
    reason = f"{found['verdict']}, {found['reason']}"
    if wanted.then == "nothing":
        return {"decision": "nothing", "reason": reason}
    if wanted.then == "challenger":
        if found["verdict"] == "worse":
            return {"decision": "rejected", "reason": reason}
        registry.set_alias(version.name, version.version, registry.CHALLENGER)
        return {"decision": "challenger", "reason": reason}
    return _promoted(record, version)


def _promoted(record: Retraining, version: ModelVersion) -> dict[str, Any]:
    """Promote through the gate, or find what a killed try has decided. The history has one event for a retraining."""
    from raycls.serving.control import rollout

    _open(RETRAININGS.load(record.id))  # the comparison took a while
    by = f"retraining {record.id}"
    for event in history.events(version.name):
        if event.by == by and event.done:
            decision = "refused" if event.kind == "refusal" else "promoted"
            return {"decision": decision, "reason": event.reason}
    try:
        promoted = rollout.promote(version.name, version.version, by=by, wait=True)
    except RefusedError as error:
        return {"decision": "refused", "reason": str(error)}
    return {"decision": "promoted", "reason": f"{promoted.reference} is champion"}


def _start(record: Retraining) -> ModelVersion:
    """Return the version to start from: the champion, or the newest one; if it learned val, that before its refit."""
    return before_refit(registry.champion(record.wanted.model) or registry.newest(record.wanted.model))


def _dataset_of(version: ModelVersion) -> PackedDataset:
    """Return the newest version of the dataset that a model version learned from."""
    return open_dataset(load_card(registry.checkpoint(version)).dataset)


STEPS = {"data": _data, "train": _train, "compare": _compare, "decide": _decide}
