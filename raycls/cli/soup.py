"""`raycls soup`: mix the weights of several versions, or of a study's best trials."""

from __future__ import annotations

from typing import Annotated

import typer

from raycls import progress
from raycls.cli.output import AsJson, print_json
from raycls.cli.training import ModelName, print_version
from raycls.errors import UsageError

app = typer.Typer()


@app.command()
def soup(
    versions: Annotated[
        list[str] | None,
        typer.Argument(help="two versions or more of one network: NAME/VERSION, or NAME (its champion)"),
    ] = None,
    study: Annotated[
        str | None, typer.Option(metavar="STUDY", help="in place of versions: the best trials of this study")
    ] = None,
    members: Annotated[
        int,
        typer.Option(
            min=2, max=20, help="with --study: trials; each but the winner is trained in full first"
        ),
    ] = 3,
    model: ModelName = None,
    as_json: AsJson = False,
) -> None:
    """Average the weights of fine-tuned versions, one after another, as long as the accuracy on val does not fall.

    The mixture is as fast as one of them. Example: raycls soup animals/1 animals/2 animals/3
    """
    if bool(versions) == bool(study):
        raise UsageError("name two versions or more, like pets/3 pets/5, or a study with --study")
    with progress.bar("loading PyTorch"):
        from raycls.training.soups import soup as mix
        from raycls.tuning.soup import of_study

    made = of_study(study, members, model) if study else mix(versions or [], model)
    if made:
        print_version(made, as_json)
    elif as_json:
        print_json({"model": None})
    else:
        print("the best version stays alone: nothing was registered")
