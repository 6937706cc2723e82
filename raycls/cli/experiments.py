"""`raycls experiment`: a challenger on live traffic, beside the champion."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from raycls.cli.output import AsJson, print_json, print_table
from raycls.errors import UsageError

app = typer.Typer()
DECISIONS = {"better": "better", "worse": "worse", "not_yet": "neither better nor worse so far"}
Url = Annotated[str, typer.Option(help="URL of the server")]
URL = "http://127.0.0.1:8000"


@app.callback(invoke_without_command=True)
def experiment(ctx: typer.Context, url: Url = URL, as_json: AsJson = False) -> None:
    """List the experiments of a server, the newest first.

    Example: raycls experiment
    """
    if ctx.invoked_subcommand:
        return
    from raycls.serving.client.manage import call

    found = call(url, "GET", "/experiments")["experiments"]
    if as_json:
        print_json(found)
    elif not found:
        print("there was no experiment yet: begin one with `raycls experiment start`")
    else:
        rows = [
            (e["id"], e["champion"], e["challenger"], e["mode"], f"{e['share']:g}", e["state"], e["reason"])
            for e in found
        ]
        print_table(("id", "champion", "challenger", "mode", "share", "state", "reason"), rows)


@app.command()
def start(
    model: Annotated[str, typer.Argument(help="name of the model that is served")],
    challenger: Annotated[str, typer.Option(help="NAME/VERSION or NAME@ALIAS")],
    shadow: Annotated[
        float | None,
        typer.Option(help="share of the requests that the challenger also computes, unseen by clients"),
    ] = None,
    split: Annotated[
        float | None, typer.Option(help="share of the clients that the challenger answers, up to 0.9")
    ] = None,
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Let a challenger see live traffic, until `raycls experiment stop` or until it goes wrong.

    Example: raycls experiment start pets --challenger pets/7 --shadow 0.2
    """
    from raycls.serving.client.manage import call

    share = shadow if shadow is not None else split
    if share is None or (shadow is not None and split is not None):
        raise UsageError("say either --shadow SHARE or --split SHARE, like --shadow 0.2")
    if challenger.partition("/")[0].partition("@")[0] != model:
        raise UsageError(f"{challenger} is no version of {model}")
    mode = "shadow" if shadow is not None else "split"
    started = call(url, "POST", "/experiments", {"challenger": challenger, "mode": mode, "share": share})
    _print(started, as_json)


@app.command()
def show(
    identifier: Annotated[str, typer.Argument(metavar="ID", help="id of an experiment")],
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Show what was counted of both versions.

    Example: raycls experiment show a1b2c3d4
    """
    from raycls.serving.client.manage import call

    _print(call(url, "GET", f"/experiments/{identifier}"), as_json)


@app.command()
def share(
    share: Annotated[
        float, typer.Argument(help="share of the requests, above 0 and up to 1; in a split up to 0.9")
    ],
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """Give the running experiment another share of the requests.

    Example: raycls experiment share 0.5
    """
    from raycls.serving.client.manage import call

    changed = call(url, "PATCH", "/experiments", {"share": share})
    print_json(changed) if as_json else print(
        f"{changed['challenger']} has a share of {changed['share']:g} now"
    )


@app.command()
def stop(
    reason: Annotated[str, typer.Option(help="why, for the record")] = "",
    url: Url = URL,
    as_json: AsJson = False,
) -> None:
    """End the running experiment. The champion answers all requests.

    Example: raycls experiment stop --reason "it is no better"
    """
    from raycls.serving.client.manage import call

    _print(call(url, "DELETE", "/experiments", {"reason": reason}), as_json)


def _print(found: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(found)
        return
    what = f"{found['challenger']} against {found['champion']}, {found['mode']} {found['share']:g}"
    print(f"experiment {found['id']}: {what}")
    print(f"{found['state']}" + (f": {found['reason']} ({found['ended_by']})" if found["ended"] else ""))

    def shown(value: float | None, digits: int) -> str:
        return "–" if value is None else f"{value:,.{digits}f}"

    rows = []
    for name in ("champion", "challenger"):
        arm = found["arms"][name]
        failures = (
            ", ".join(f"{count} {kind.replace('_', ' ')}" for kind, count in arm["failures"].items()) or "0"
        )
        rows.append(
            (
                found[name],
                f"{arm['requests']:,}",
                failures,
                shown(arm["p50_ms"], 1),
                shown(arm["p95_ms"], 1),
                shown(arm["confidence"], 4),
            )
        )
    print_table(("version", "requests", "failures", "p50 ms", "p95 ms", "mean confidence"), rows)
    if found["compared"]:
        print(f"the same class in {found['agreement']:.1%} of {found['compared']:,} pictures")
    if judged := found.get("accuracy"):
        reviewed, right, verdict = judged["reviewed"], judged["right"], judged["verdict"]
        if sum(reviewed.values()):
            print(
                f"reviewed answers: champion {right['champion']} of {reviewed['champion']} right, challenger "
                f"{right['challenger']} of {reviewed['challenger']}; the challenger is "
                f"{DECISIONS[verdict['decision']]} ({verdict['low']:+.3f} to {verdict['high']:+.3f})"
            )
