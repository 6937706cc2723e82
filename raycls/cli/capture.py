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
    least_confidence: Annotated[float, typer.Option(help="lowest confidence of a kept picture")] = 0.0,
    most_confidence: Annotated[float, typer.Option(help="highest confidence of a kept picture")] = 1.0,
    per_day: Annotated[int, typer.Option(help="most pictures in 24 hours")] = 100,
    quota: Annotated[int, typer.Option(help="most captured pictures that are stored at a time")] = 1000,
    days: Annotated[
        float, typer.Option(help="days after which a picture that nobody accepted is deleted")
    ] = 30,
    as_json: AsJson = False,
) -> None:
    """Keep a share of the pictures of requests for review. Without --share, say what is kept: by default nothing.

    Example: raycls uploads capture --share 0.05 --most-confidence 0.6
    """
    from raycls.serving import state
    from raycls.serving.replica.captured import CapturePolicy

    if share is None:
        policy = state.load().capture
    elif share == 0 and not share_of_class:
        policy = state.change(lambda now: now.model_copy(update={"capture": None})).capture
    else:
        values = {
            "share": share,
            "share_of_class": dict(_pair(text) for text in share_of_class or ()),
            "least_confidence": least_confidence,
            "most_confidence": most_confidence,
            "per_day": per_day,
            "quota": quota,
            "days": days,
        }
        chosen = validated(CapturePolicy, values)
        policy = state.change(lambda now: now.model_copy(update={"capture": chosen})).capture
    if as_json:
        print_json(policy.model_dump() if policy else None)
    elif policy is None:
        print("no picture is kept: `raycls uploads capture --share 0.05` keeps some")
    else:
        print("  ".join(f"{name}={value}" for name, value in policy.model_dump().items()))


def _pair(text: str) -> tuple[str, str]:
    name, equals, share = text.rpartition("=")
    if not equals or not name:
        raise UsageError(f"{text!r} is not CLASS=SHARE: write it like --share-of-class cat=0.5")
    return name, share
