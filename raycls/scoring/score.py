"""One call that scores a source, from the names to the totals.

    scored = score("pets@champion", "s3://bucket/photos", "s3://bucket/scores")
    scored.pictures, scored.errors, scored.pictures_per_s

The version is pinned at the start: `_ledger/plan.json` of the output says which one it was. The same call on the same
output goes on where it ended, also after a kill.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from itertools import chain
from pathlib import Path
from typing import Any

from raycls import cluster, progress, registry
from raycls.data.files import is_uri, shown
from raycls.data.sources.pictures import Picture, PictureSource, find, pictures
from raycls.errors import BrokenOffError, ClusterError, DataError, RegistryError, UsageError
from raycls.scoring import workers
from raycls.scoring.actor import Actor
from raycls.scoring.ledger import Format, Ledger, Plan, Totals
from raycls.scoring.listing import meanwhile, part_numbers
from raycls.scoring.output import alone, check_apart, check_ours, counted
from raycls.scoring.parts import PartSize
from raycls.scoring.rows import Counts
from raycls.scoring.scorer import Task
from raycls.scoring.tally import Tally
from raycls.scoring.workers import Workers


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What an output holds, and what this call did.

    pictures, errors, rejected: of all calls. rejected: None for a version without thresholds. scored: the pictures of
    this call. start_seconds: until the first part was begun. pictures_per_s: from then on.
    """

    output: str
    version: str
    source: str
    pictures: int
    errors: int
    rejected: int | None
    scored: int
    seconds: float
    start_seconds: float
    pictures_per_s: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def score(
    model: str,
    source: str,
    output: str,
    *,
    format: Format = "parquet",
    top_k: int = 5,
    embedding: bool = False,
    part: PartSize | None = None,
) -> Scored:
    """Classify all pictures of a source, and write a row for each of them into files of an output.

    model: NAME (its champion), NAME@ALIAS or NAME/VERSION. source: a folder or URI of pictures, a table with `path` or
    `bytes`, or a dataset version. output: a folder or URI, new or of an earlier call with the same arguments, which
    goes on where that ended. top_k: classes of a row, 0 for none. embedding: add the input of the network's head.
    part: how the pictures are divided, which nobody needs to choose.

    A picture that cannot be read is a row with an error. Raises UsageError for a wrong source, and for an output of
    other arguments; DataError if the source cannot be listed, the output cannot be written, or a process cannot use the
    model; BrokenOffError and ClusterError if the cluster fails; UnknownModelError, RegistryError and CheckpointError.
    The same call goes on after the reason has been mended.
    """
    started = time.time()
    if top_k < 0:
        raise UsageError(f"top_k is {top_k}: give a number of classes, or 0 for none")
    found = find(source)
    check_apart(found, output)
    ledger = Ledger(output)
    choice: dict[str, Any] = {"top_k": top_k, "format": format, "embedding": embedding}
    with alone(output):
        listed: Iterator[Picture] | None = None
        former = ledger.plan()
        if former:
            _check_same(former, {"model": model, "source": found.shown, **choice})
            if former.source_digest != found.digest:
                raise UsageError(
                    f"the output holds scores of {former.source} with other values after the question mark: give "
                    "the same ones, or a new output"
                )
        elif ledger.holds_anything():
            raise UsageError(f"{shown(output)} holds other files than scores: name a new or an empty folder")
        else:
            listed = _begun(found)
        if former and (totals := ledger.totals()):
            progress.say(
                f"{shown(output)} was finished on {totals.ended}: {totals.pictures:,} pictures by {former.version}, "
                f"as listed on {former.begun}. To score what is new, name a new output"
            )
            return _result(output, former, totals, started, None)
        version = registry.resolve(former.version if former else model)
        if former and former.sha256 != version.sha256:
            raise RegistryError(
                f"{former.version} is another model than at the start of these scores: write to a new output"
            )
        directory = registry.checkpoint(version)
        if former:
            plan = former
            progress.say(f"going on with {plan.version}, as begun on {plan.begun}")
        else:
            plan = Plan(
                model=model,
                version=version.reference,
                sha256=version.sha256,
                rejection=version.rejection,
                source=found.shown,
                source_digest=found.digest,
                part=part or PartSize(),
                begun=_now(),
                **choice,
            )
            ledger.begin(plan)
            progress.say(f"scoring with {plan.version}; the same command goes on after an interruption")
        with meanwhile(found, ledger, listed) as early:
            cluster.connect()
        chosen = workers.choose(local=found.is_local or not is_uri(output), engine=plan.engine)
        if plan.engine is None:
            engine = registry.engine_to_serve(version, device=chosen.device)
            registry.check_engine(version, directory, engine)
            plan = plan.model_copy(update={"engine": engine})
            ledger.begin(plan)
        else:
            workers.check_runs(plan.engine, chosen.device)
        task = Task(
            source=found,
            output=output if is_uri(output) else str(Path(output).absolute()),
            plan=plan,
            version=version,
            device=chosen.device,
            threads=chosen.threads,
            give_way=cluster.serves_here(),
        )
        check_ours(ledger, plan)
        written = ledger.written()
        with Tally(f"scoring with {plan.version}", counted(ledger, plan, written), ledger) as tally:
            _run(task, ledger, chosen, early.known, written, tally)
        totals = _totals(ledger, plan, written, tally)
        check_ours(ledger, plan)
        ledger.finish(totals)
        return _result(output, plan, totals, started, tally)


def _run(task: Task, ledger: Ledger, chosen: Workers, known: int, written: set[int], tally: Tally) -> None:
    """Score what is not written. known: the parts that are listed for sure. Raises DataError and ClusterError."""
    listing = ledger.listing()
    if listing and set(range(listing.parts)) <= written:
        return
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # Ray Data's own progress
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = 1  # a block is a part: it is told when it is done, and not with others
    context.max_consecutive_actor_init_deaths = 4
    context.autoscaling_config.actor_pool_util_downscaling_threshold = -1  # actors that wait for names stay
    with DataContext.current(context):
        numbers = part_numbers(task.source, task.output, known, written=written, options=chosen.listing)
        results = numbers.map_batches(
            Actor,
            fn_constructor_args=(task,),
            batch_size=1,
            batch_format="numpy",
            compute=ActorPoolStrategy(min_size=1, max_size=chosen.count, initial_size=chosen.count),
            **chosen.options,
        )
        try:
            for row in results.iter_rows():
                if row["failure"]:
                    raise DataError(row["failure"])
                found = Counts(int(row["pictures"]), int(row["errors"]), int(row["rejected"]))
                tally.add(int(row["part"]), found, float(row["began"]))
        except ray.exceptions.RayError as error:
            raise ClusterError(
                f"scoring on the Ray cluster failed: {shown(str(error).strip().splitlines()[-1])}. Run the same "
                "command again, which goes on"
            ) from error


def _totals(ledger: Ledger, plan: Plan, written: set[int], tally: Tally) -> Totals:
    """Return what the output holds. Raises BrokenOffError if a part of it is not there."""
    listing = ledger.listing()
    if listing is None or set(range(listing.parts)) - written - tally.parts:
        raise BrokenOffError("some parts were not scored: run the same command again, which goes on")
    if tally.all.pictures != listing.pictures:
        raise DataError(
            f"the scores have {tally.all.pictures:,} rows and the listing has {listing.pictures:,} pictures: something "
            "else has written into the output. Write to a new one"
        )
    rejected = tally.all.rejected if plan.rejection else None
    return Totals(pictures=listing.pictures, errors=tally.all.errors, rejected=rejected, ended=_now())


def _begun(source: PictureSource) -> Iterator[Picture]:
    """Return the pictures, whose listing has begun. Raises UsageError if there is none, or it cannot be listed."""
    listed = pictures(source)
    try:
        first = next(listed, None)
    except OSError as error:
        reason = shown((str(error).splitlines() or [type(error).__name__])[0])
        raise UsageError(f"{source.shown} cannot be listed: {reason}") from None
    if first is None:
        raise UsageError(f"{source.shown} has no picture")
    if first.name == ".":  # the folder itself
        raise UsageError(f"{source.shown} cannot be listed: {first.where[1]}")
    return chain([first], listed)


def _check_same(former: Plan, wanted: dict[str, Any]) -> None:
    """Raise UsageError if an output holds scores of a call with other arguments."""
    other = {name: value for name in wanted if wanted[name] != (value := getattr(former, name))}
    if other:
        raise UsageError(
            f"the output holds scores of a call with {_listed(other)}, and this one has "
            f"{_listed({name: wanted[name] for name in other})}: give the same arguments, or a new output"
        )


def _result(output: str, plan: Plan, totals: Totals, started: float, tally: Tally | None) -> Scored:
    began = tally.began if tally else None
    return Scored(
        output=shown(output),
        version=plan.version,
        source=plan.source,
        pictures=totals.pictures,
        errors=totals.errors,
        rejected=totals.rejected,
        scored=tally.scored if tally else 0,
        seconds=time.time() - started,
        start_seconds=(began or time.time()) - started,
        pictures_per_s=tally.pictures_per_s if tally else 0.0,
    )


def _listed(values: dict[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
