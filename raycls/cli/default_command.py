"""A group of commands of which one needs no name: `raycls tune DATASET` is `raycls tune run DATASET`."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup


def default_command(name: str) -> type[TyperGroup]:
    """Return the class of a group whose command `name` runs where no other command is named."""

    class Group(TyperGroup):
        default = name

        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            named = args[0] in (*self.commands, *ctx.help_option_names) if args else self.no_args_is_help
            return super().parse_args(ctx, args if named else [name, *args])

    return Group
