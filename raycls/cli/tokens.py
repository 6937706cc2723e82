"""`raycls tokens`: who may use a server, and for what."""

from __future__ import annotations

from typing import Annotated

import typer

from raycls.cli.output import AsJson, print_json, print_table

app = typer.Typer()
Name = Annotated[str, typer.Argument(help="name of the token: letters, digits, and . _ - @")]


@app.callback(invoke_without_command=True)
def tokens(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the tokens of the server: names, roles and dates. `add` and `revoke` need no restart.

    Example: raycls tokens
    """
    if ctx.invoked_subcommand:
        return
    from raycls.serving import state

    found = state.load().tokens
    if as_json:
        print_json([token.model_dump(exclude={"sha256"}) for token in found])
    elif not found:
        print(
            "there are no tokens yet: `raycls up` makes one for the administrator, `raycls tokens add` others"
        )
    else:
        rows = [(token.name, ", ".join(token.roles), token.created) for token in found]
        print_table(("token", "roles", "created"), rows)


@app.command()
def add(
    name: Name,
    role: Annotated[
        list[str], typer.Option(help="predict, contribute (uploads and feedback) or admin (everything)")
    ],
    as_json: AsJson = False,
) -> None:
    """Make a token and print it, once: the server keeps a digest. Its client sends it as a bearer token.

    Example: raycls tokens add annotators --role contribute
    """
    from raycls.serving import tokens

    secret = tokens.add(name, role)  # type: ignore[arg-type]  # checked there
    print_json({"name": name, "roles": role, "token": secret}) if as_json else print(secret)


@app.command()
def revoke(name: Name) -> None:
    """Remove a token: within seconds, no replica takes it any more.

    Example: raycls tokens revoke annotators
    """
    from raycls.serving import tokens

    tokens.revoke(name)
    print(f"{name} is revoked")
