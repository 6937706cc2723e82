"""`raycls drift`: whether the images that a server meets still look like those that its model was tried on."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from raycls.cli.output import AsJson, print_json, print_table

app = typer.Typer()


@app.command()
def drift(
    url: Annotated[str, typer.Option(help="URL of the server")] = "http://127.0.0.1:8000",
    as_json: AsJson = False,
) -> None:
    """Show how the last images that a server met differ from its model's validation images. With --json: all windows.

    Example: raycls drift
    """
    from raycls.serving.client.manage import call

    windows = call(url, "GET", "/drift")["windows"]
    if as_json:
        print_json(windows)
        return
    if not windows:
        print("no images were examined yet: that takes `drift_images` of them, or an hour with at least 100")
    newest: dict[str, dict[str, Any]] = {}
    for window in windows:
        newest.setdefault(window["version"].partition("/")[0], window)
    for last in newest.values():
        print(f"{last['version']}: {last['images']:,} images from {last['began']} to {last['ended']}")
        rows = [
            (
                each["feature"],
                f"{each['statistic']:.3g}",
                f"{each['p']:.2g}",
                f"{each['effect']:.3f}",
                "ALARM" if each["alarm"] else "",
            )
            for each in last["findings"]
        ]
        print_table(("feature", "statistic", "p", "effect", ""), rows)
