"""`raycls uploads capture`: which pictures of live requests are kept for review."""

from __future__ import annotations

from typing import Annotated

import typer

from raycls.cli.output import AsJson, print_json
from raycls.config import validated
from raycls.errors import UsageError

app = typer.Typer()


@app.command()
def capture(
    share: Annotated[
        float | None, typer.Option(help="share of the pictures that are kept; 0 turns capture off")
    ] = None,
    share_of_class: Annotated[
        list[str] | None,
        typer.Option(metavar="CLASS=SHARE", help="another share for a predicted class; can be repeated"),
    ] = None,
    least_confidence: Annotated[
        float | None, typer.Option(help="lowest confidence of a kept picture")
    ] = None,
    most_confidence: Annotated[
        float | None, typer.Option(help="highest confidence of a kept picture")
    ] = None,
    rejected_only: Annotated[
        bool | None,
        typer.Option(
            "--rejected-only/--any-answer",
            help="keep only pictures whose answer was below the threshold of `raycls reject`, or also others",
        ),
    ] = None,
    per_day: Annotated[int | None, typer.Option(help="most pictures in 24 hours")] = None,
    quota: Annotated[
        int | None, typer.Option(help="most captured pictures that are stored at a time")
    ] = None,
    days: Annotated[
        float | None, typer.Option(help="days after which a picture that nobody accepted is deleted")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Keep a share of the pictures of requests for review. What no option names stays as it is; without an option, say
    what is kept: by default nothing.

    Example: raycls uploads capture --share 0.05 --most-confidence 0.6
    """
    from raycls.serving import state
    from raycls.serving.replica.captured import CapturePolicy

    shares = dict(_pair(text) for text in share_of_class) if share_of_class else None
    if share == 0 and shares is None:  # alone, it turns capture off
        shares = {}
    options = {
        "share": share,
        "share_of_class": shares,
        "least_confidence": least_confidence,
        "most_confidence": most_confidence,
        "rejected_only": rejected_only,
        "per_day": per_day,
        "quota": quota,
        "days": days,
    }
    given = {name: value for name, value in options.items() if value is not None}

    def changed(now: state.ServingState) -> state.ServingState:
        policy = validated(CapturePolicy, {**(now.capture or CapturePolicy()).model_dump(), **given})
        return now.model_copy(update={"capture": policy})

    policy = (state.change(changed) if given else state.load()).capture or CapturePolicy()
    if as_json:
        print_json(policy.model_dump())
    elif not policy.is_on:
        print(
            "no picture is kept: `raycls uploads capture --share 0.05` keeps some; those that were captured before are "
            f"deleted after {policy.days:g} days"
        )
    else:
        print("  ".join(f"{name}={value}" for name, value in policy.model_dump().items()))


def _pair(text: str) -> tuple[str, str]:
    name, equals, share = text.rpartition("=")
    if not equals or not name:
        raise UsageError(f"{text!r} is not CLASS=SHARE: write it like --share-of-class cat=0.5")
    return name, share
