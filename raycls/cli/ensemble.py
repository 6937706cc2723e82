"""`raycls ensemble`: make one version of several."""

from __future__ import annotations

from typing import Annotated

import typer

from raycls import progress
from raycls.cli.output import AsJson
from raycls.cli.training import ModelName, print_version

app = typer.Typer()


@app.command()
def ensemble(
    members: Annotated[
        list[str], typer.Argument(help="two versions or more: NAME/VERSION, or NAME (its champion)")
    ],
    model: ModelName = None,
    as_json: AsJson = False,
) -> None:
    """Register the mean of several versions' answers as a version of its own. It takes as long as all of them together.

    Example: raycls ensemble cifar10/1 cifar10/2 cifar10/3 --model cifar10
    """
    with progress.bar("loading PyTorch"):
        from raycls.training.ensembles import ensemble as make

    print_version(make(members, model), as_json)
