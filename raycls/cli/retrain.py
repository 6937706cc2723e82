"""`raycls retrain`: the next version of a model, from the pictures that were accepted."""

from __future__ import annotations

from typing import Annotated

import typer

from raycls import progress
from raycls.cli.default_command import default_command
from raycls.cli.output import AsJson, print_json, print_table
from raycls.config import validated

app = typer.Typer(
    cls=default_command("start"),
    no_args_is_help=True,
    help="Make the next version of a model: by hand, or by itself.",
    rich_markup_mode=None,
)


@app.command()
def start(
    model: Annotated[str, typer.Argument(help="name of a registered model")],
    then: Annotated[
        str,
        typer.Option(
            help="what the new version becomes: challenger (an alias), promote (through the gate) or nothing"
        ),
    ] = "challenger",
    preset: Annotated[str, typer.Option(help="smoke, quick, fast, strong or accurate")] = "fast",
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="change one setting of the training; can be repeated"
        ),
    ] = None,
    tune: Annotated[int, typer.Option(help="search settings with so many trials, then train the winner")] = 0,
    trust: Annotated[
        list[str] | None,
        typer.Option(metavar="SENDER", help="may give more than a tenth of a class; can be repeated"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the next dataset version, train from the champion, compare, and decide. In this process, until it is done.

    Example: raycls retrain pets --then promote
    """
    with progress.bar("loading PyTorch"):
        from raycls.lifecycle import retrain, retraining
        from raycls.registry import history

    wanted = validated(
        retraining.Wanted,
        {
            "model": model,
            "then": then,
            "preset": preset,
            "settings": settings or (),
            "tune": tune,
            "trust": trust or (),
        },
    )
    retraining.check(wanted)
    record = retraining.begin(wanted, by=history.own_name(), in_jobs=False)
    progress.say(
        f"retraining {record.id}; to continue it after an interruption: raycls retrain run {record.id}"
    )
    _print(retrain.run(record.id), as_json)


@app.command()
def run(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="id of a retraining")],
    wait: Annotated[
        bool, typer.Option("--wait", help="where another process works on it, until that has ended")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Continue a retraining where it ended. The Ray jobs of a server do this.

    Example: raycls retrain run 3f2a91c07b52
    """
    with progress.bar("loading PyTorch"):
        from raycls.lifecycle import retrain

    _print(retrain.run(identifier, wait=wait), as_json)


@app.command()
def stop(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="id of a retraining")],
    as_json: AsJson = False,
) -> None:
    """End a retraining that is not done. What it has made stays. A server stops its job within seconds.

    Example: raycls retrain stop 3f2a91c07b52
    """
    from raycls.lifecycle import retraining
    from raycls.registry import history

    _print(retraining.stop(identifier, by=history.own_name()), as_json)


@app.command()
def when(
    model: Annotated[str, typer.Argument(help="name of a registered model")],
    accepted: Annotated[
        int | None, typer.Option(help="after so many accepted pictures; 0: not for that")
    ] = None,
    drift: Annotated[
        bool | None, typer.Option("--drift/--no-drift", help="where live pictures differ from those of val")
    ] = None,
    every_days: Annotated[
        float | None, typer.Option(help="so many days after the last retraining; 0: not for that")
    ] = None,
    then: Annotated[str | None, typer.Option(help="challenger, promote or nothing")] = None,
    preset: Annotated[str | None, typer.Option(help="smoke, quick, fast, strong or accurate")] = None,
    never: Annotated[bool, typer.Option("--never", help="only when somebody says so, as by default")] = False,
    as_json: AsJson = False,
) -> None:
    """Let a server retrain a model by itself, at most once a day. What no option names stays as it is; without an
    option, say when it does.

    Example: raycls retrain when pets --accepted 200 --then promote
    """
    from raycls.lifecycle import triggers
    from raycls.serving.state import Trigger

    options = {"accepted": accepted, "drift": drift, "every_days": every_days, "then": then, "preset": preset}
    given = {name: value for name, value in options.items() if value is not None}
    if never:
        triggers.remove_trigger(model)
    elif given:
        former = triggers.trigger_of(model)
        known = former.model_dump() if former else {"model": model}
        triggers.set_trigger(validated(Trigger, {**known, **given}))
    trigger = triggers.trigger_of(model)
    if as_json:
        print_json(trigger.model_dump() if trigger else None)
    elif trigger is None:
        print(
            f"{model} is retrained only when somebody says so: --accepted, --drift or --every-days change that"
        )
    else:
        print(
            f"the server's control plane retrains {model} at most once a day: {triggers.described(trigger)}"
        )


@app.command(name="list")
def list_all(as_json: AsJson = False) -> None:
    """List the retrainings, the newest first.

    Example: raycls retrain list
    """
    from raycls.lifecycle import retraining

    records = retraining.records()
    if as_json:
        print_json([record.model_dump() for record in records])
    elif not records:
        print("there was no retraining yet: begin one with `raycls retrain MODEL`")
    else:
        rows = [(r.id, r.wanted.model, r.state, r.step, r.created, r.by, r.error) for r in records]
        print_table(("id", "model", "state", "step", "begun", "by", "error"), rows)


@app.command()
def show(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="id of a retraining")],
    as_json: AsJson = False,
) -> None:
    """Show what each step of a retraining found.

    Example: raycls retrain show 3f2a91c07b52
    """
    from raycls.lifecycle.retraining import RETRAININGS

    _print(RETRAININGS.load(identifier), as_json)


def _print(record: object, as_json: bool) -> None:
    from raycls.lifecycle.retraining import Retraining

    assert isinstance(record, Retraining)
    if as_json:
        print_json(record.model_dump())
        return
    print(
        f"retraining {record.id} of {record.wanted.model}: {record.state} {record.step}{record.error}".rstrip()
    )
    done = record.done
    if data := done.get("data"):
        waiting = "".join(f"; {count} of {sender} wait" for sender, count in data["waiting"].items())
        print(f"data     {data['dataset']}, {data['added']:,} new pictures{waiting}")
    if trained := done.get("train"):
        print(f"train    {trained['model']} from {trained['init']} (MLflow run {trained['run_id']})")
    if compared := done.get("compare"):
        print(f"compare  {compared['verdict']}, {compared['reason']}")
    if decided := done.get("decide"):
        print(f"decide   {decided['decision']}: {decided['reason']}")
