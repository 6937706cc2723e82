"""`raycls networks`: what a training can start from, and what each costs."""

from __future__ import annotations

from dataclasses import asdict
from fnmatch import fnmatch
from typing import Annotated

import typer

from raycls import progress
from raycls.cli.output import AsJson, print_json, print_table
from raycls.errors import ConfigError, UsageError

app = typer.Typer()

MOST_BUILT = 40  # networks: more are listed by name alone


@app.command()
def networks(
    pattern: Annotated[
        str, typer.Argument(help="names with *, like resnet* or 'timm/mobilenetv4*'; default: all but timm's")
    ] = "*",
    size: Annotated[int, typer.Option(min=8, max=2048, help="side of the images, pixels")] = 224,
    timed: Annotated[
        bool, typer.Option("--time", help="also measure the forward pass of one image with each engine here")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List networks for `--network`, with parameters and multiply-accumulates for one image.

    Example: raycls networks 'timm/mobilenetv4_conv_small*' --size 224 --time
    """
    with progress.bar("loading PyTorch"):
        from raycls.engines.network_costs import cost
        from raycls.models import timm_networks
        from raycls.models.networks import NETWORKS, has_public_weights, native_side

    of_timm = pattern.startswith(timm_networks.PREFIX)
    found = timm_networks.names(pattern) if of_timm else [name for name in NETWORKS if fnmatch(name, pattern)]
    if not found:
        raise UsageError(
            f"no network is called {pattern!r}: the names are {', '.join(NETWORKS)}, and those of "
            f"`raycls networks '{timm_networks.PREFIX}*'`"
        )
    if len(found) > MOST_BUILT:
        progress.say(f"{len(found):,} networks: a narrower pattern also shows what each costs")
        print_json([{"name": name} for name in found]) if as_json else print("\n".join(found))
        return
    costs = []
    with progress.bar("building networks", len(found)) as bar:
        for name in found:
            try:
                costs.append(cost(name, size, timed=timed))
            except ConfigError as error:
                progress.say(str(error))
            bar.advance()
    if not costs:
        raise UsageError(f"none of these networks takes images of {size} pixels: try another --size")
    learned = {each.name: native_side(each.name) for each in costs if has_public_weights(each.name)}
    if as_json:
        print_json([{**asdict(each), "weights_image_size": learned.get(each.name)} for each in costs])
        return
    engines = list(dict.fromkeys(engine for each in costs for engine in each.ms))
    rows = [
        (
            each.name,
            f"{each.parameters / 1e6:,.2f}",
            f"{each.macs / 1e6:,.0f}",
            each.stages,
            learned.get(each.name, "–"),
            *(f"{each.ms[engine]:.2f}" if engine in each.ms else "–" for engine in engines),
        )
        for each in costs
    ]
    print_table(
        (
            "network",
            "million parameters",
            "million MACs",
            "stages",
            "weights' pixels",
            *(f"{engine}, ms" for engine in engines),
        ),
        rows,
    )
