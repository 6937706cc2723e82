"""`raycls score`: classify pictures in bulk."""

from __future__ import annotations

from typing import Annotated

import typer

from raycls.cli.output import AsJson, print_json

app = typer.Typer()


@app.command()
def score(
    model: Annotated[str, typer.Argument(help="NAME (its champion), NAME@ALIAS or NAME/VERSION")],
    source: Annotated[
        str,
        typer.Argument(
            help="a folder or URI of pictures, a .csv, .jsonl or .parquet table with `path` or `bytes`, or a dataset "
            "version, NAME or NAME@VERSION"
        ),
    ],
    output: Annotated[
        str,
        typer.Option(
            help="folder or URI for the scores; one of an earlier call with the same arguments goes on"
        ),
    ],
    format: Annotated[str, typer.Option(help="of the files: parquet or csv")] = "parquet",
    top_k: Annotated[int, typer.Option(min=0, help="most probable classes of each row; 0: none")] = 5,
    embedding: Annotated[
        bool, typer.Option("--embedding", help="add the input of the network's head, a list of numbers")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Classify all pictures of a source: a row for each, also for those that cannot be read.

    Example: raycls score pets@champion photos/ --output scores/
    """
    from raycls import scoring
    from raycls.scoring.ledger import known_format

    scored = scoring.score(
        model, source, output, format=known_format(format), top_k=top_k, embedding=embedding
    )
    if as_json:
        print_json(scored.as_json())
        return
    print(
        f"{scored.pictures:,} pictures of {scored.source}, scored with {scored.version} into {scored.output}"
    )
    print(f"{scored.errors:,} cannot be read: the column `error` says why")
    if scored.rejected is not None:
        print(f"{scored.rejected:,} are rejected: the column `rejected`")
    if scored.scored:
        print(
            f"{scored.scored:,} of them now, {scored.pictures_per_s:,.0f} pictures/s after {scored.start_seconds:.1f} s"
        )
