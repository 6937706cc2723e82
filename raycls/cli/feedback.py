"""`raycls feedback`: what clients say was right, and what a person decides about it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from raycls.cli.output import AsJson, print_json, print_table
from raycls.cli.uploads import By, who
from raycls.errors import UsageError

if TYPE_CHECKING:
    from raycls.lifecycle.feedback import Answered

app = typer.Typer(
    no_args_is_help=True, help="Review what clients say was right for an answer.", rich_markup_mode=None
)

Ids = Annotated[list[str], typer.Argument(metavar="ID...", help="ids from `raycls feedback list`")]
STATES = ("waiting", "accepted", "rejected", "all")


@app.command("list")
def list_command(
    model: Annotated[str, typer.Argument(help="name of a registered model")],
    state: Annotated[str, typer.Option(help=", ".join(STATES))] = "waiting",
    version: Annotated[str | None, typer.Option(help="of this version only")] = None,
    as_json: AsJson = False,
) -> None:
    """List the feedback for a model, the oldest first, and the accuracy of each version by what was accepted.

    Example: raycls feedback list pets --state waiting
    """
    from raycls.lifecycle.feedback import Feedback

    if state not in STATES:
        raise UsageError(f"--state {state} is unknown: choose one of {', '.join(STATES)}")
    feedback = Feedback()
    only = None if state == "all" else state
    found = feedback.of(model, version=version, state=only)  # type: ignore[arg-type]
    accuracy = feedback.accuracy(model)
    if as_json:
        versions = {number: each.as_json() for number, each in accuracy.items()}
        print_json({"feedback": [each.as_json() for each in found], "accuracy": versions})
        return
    print_table(
        ("id", "version", "predicted", "confidence", "right", "state", "sender", "sent"),
        [
            (
                each.claims.request_id,
                each.claims.version,
                each.claims.predicted,
                f"{each.claims.confidence:.2f}",
                each.label,
                each.state,
                each.sender,
                time.strftime("%Y-%m-%d %H:%M", time.localtime(each.time)),
            )
            for each in found
        ],
    )
    for number, each in accuracy.items():
        print(
            f"{model}/{number}: {each.right:,} of {each.judged:,} accepted answers are right ({each.share:.1%})"
        )


@app.command()
def accept(ids: Ids, by: By = None, as_json: AsJson = False) -> None:
    """Accept feedback: it counts for the accuracy of its version, and for the verdict of an experiment.

    Example: raycls feedback accept 1f0c3d2b9a8e7f6d5c4b3a2f1e0d9c8b-0
    """
    from raycls.lifecycle.feedback import Feedback

    _print(Feedback().review(ids, by=who(by), state="accepted"), as_json)


@app.command()
def reject(ids: Ids, by: By = None, as_json: AsJson = False) -> None:
    """Reject feedback: it never counts.

    Example: raycls feedback reject 1f0c3d2b9a8e7f6d5c4b3a2f1e0d9c8b-0
    """
    from raycls.lifecycle.feedback import Feedback

    _print(Feedback().review(ids, by=who(by), state="rejected"), as_json)


def _print(found: list[Answered], as_json: bool) -> None:
    if as_json:
        print_json([each.as_json() for each in found])
        return
    for each in found:
        print(f"{each.claims.request_id}  {each.state}: {each.claims.predicted}, right is {each.label}")
