"""`raycls promote | rollback | models compare | models history`: choose the champion, and see how it was chosen."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from raycls import progress
from raycls.cli.output import AsJson, print_json, print_table
from raycls.errors import UsageError

app = typer.Typer()
versions = typer.Typer()  # commands of `raycls models`

Name = Annotated[str, typer.Argument(help="name of a registered model")]
Policy = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="FIELD=VALUE",
        help="change one field of the promotion policy, like metric=macro_f1 or margin=0.005; can be repeated",
    ),
]


Address = Annotated[
    str | None,
    typer.Option(
        help="dashboard of the cluster that serves the model, like http://127.0.0.1:8265; default: `raycls up` here"
    ),
]


@app.command()
def promote(
    model: Name,
    version: Annotated[str, typer.Argument(help="version number")],
    settings: Policy = None,
    max_accuracy_loss: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=100,
            metavar="POINTS",
            help="accuracy on val that the engine which serves the version may lose against float32, like 0.5; "
            "default: 0.2; the policy's field of that name",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="promote without the comparison; needs --reason")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="why, for the history; with --force")] = None,
    alias: Annotated[
        str, typer.Option(help="alias to set; only a new champion is checked, compared and served")
    ] = "champion",
    new_classes: Annotated[
        bool, typer.Option("--new-classes", help="allow a version that does not know all of its classes")
    ] = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Compare a version with the champion on the same pictures, and make it champion if it is better. If `raycls up`
    serves the model, serve the new champion there. `raycls models history` shows each promotion and refusal.

    Example: raycls promote cifar10 3
    """
    from raycls import registry

    if max_accuracy_loss is not None:
        settings = [*(settings or ()), f"max_accuracy_loss={max_accuracy_loss}"]
    if force != (reason is not None):
        raise UsageError("--force and --reason go together: say why the comparison does not count")
    if alias == registry.CHAMPION:
        registry.resolve(f"{model}/{version}")  # a wrong one is said before PyTorch is loaded
        with progress.bar("loading PyTorch"):
            from raycls.registry.policy import PromotionPolicy, override
            from raycls.serving.control import rollout

        policy = override(PromotionPolicy(), settings or ())
        promoted = rollout.promote(
            model, version, policy=policy, new_classes=new_classes, force=reason, address=address
        )
    elif force or settings or new_classes or address:
        raise UsageError(
            f"--alias {alias} compares and serves nothing: leave out --force, --set, --max-accuracy-loss, "
            "--new-classes and --address"
        )
    else:
        promoted = registry.set_alias(model, version, alias)
    if as_json:
        print_json({"model": promoted.reference, "aliases": promoted.aliases})
    else:
        print(f"{promoted.reference} is now {alias}")


@app.command()
def rollback(
    model: Name,
    reason: Annotated[str, typer.Option(help="why, for the history")] = "",
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Make the former champion champion again, without a comparison. If `raycls up` serves the model, serve it there.

    Example: raycls rollback cifar10 --reason "errors since noon"
    """
    from raycls.serving.control import rollout

    restored = rollout.rollback(model, reason=reason, address=address)
    if as_json:
        print_json({"model": restored.reference, "aliases": restored.aliases})
    else:
        print(f"{restored.reference} is champion again")


@versions.command()
def compare(
    challenger: Annotated[str, typer.Argument(help="NAME@ALIAS or NAME/VERSION")],
    champion: Annotated[
        str | None, typer.Argument(help="NAME@ALIAS or NAME/VERSION; default: the model's champion")
    ] = None,
    settings: Policy = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions on the same pictures, as a promotion does. Nothing is changed.

    Example: raycls models compare cifar10/3 cifar10@champion
    """
    with progress.bar("loading PyTorch"):
        from raycls import registry
        from raycls.registry.disagreement import compare_in_detail
        from raycls.registry.policy import PromotionPolicy, override

    policy = override(PromotionPolicy(), settings or ())
    new = registry.resolve(challenger)
    old = registry.resolve(champion or f"{new.name}@{registry.CHAMPION}")
    detailed = compare_in_detail(new, old, policy)
    if as_json:
        print_json(detailed.as_json())
        return
    found = detailed.comparison
    print(f"{found.pictures:,} pictures of {found.dataset}/{found.split}, {found.uploads:,} of them uploads")
    print_table(("", found.champion, found.challenger, "gain", "interval", "p"), found.rows())
    print_table(
        ("recall by class", "pictures", found.champion, found.challenger, "gain", "interval"),
        found.class_rows(),
    )
    print(f"they class {detailed.apart:,} pictures differently")
    if detailed.confusions:
        print_table(
            ("class", "taken for", found.champion, found.challenger),
            [
                (each.label, each.taken_for, f"{each.champion:,}", f"{each.challenger:,}")
                for each in detailed.confusions
            ],
        )
    for remark in found.remarks:
        print(remark)
    print(f"policy: {found.policy}")
    print(f"{found.challenger} is {found.verdict}: {found.reason}")


@versions.command()
def history(model: Name, as_json: AsJson = False) -> None:
    """List every promotion, refusal and rollback of a model, the latest first: when, who, from, to, figures, reason.

    Example: raycls models history cifar10
    """
    from raycls.registry import history

    events = history.events(model)
    if as_json:
        print_json([event.as_json() for event in events])
    elif not events:
        print(f"nothing was promoted, refused or rolled back under the name {model} yet")
    else:
        print_table(
            ("when", "event", "from", "to", "gain", "by", "reason"),
            [
                (
                    time.strftime("%Y-%m-%d %H:%M", time.localtime(event.at)),
                    event.kind + ("" if event.done else ", not finished"),
                    event.former or "",
                    event.version,
                    f"{event.figures['gain']:+.4f}" if event.figures else "",
                    event.by,
                    event.reason,
                )
                for event in events
            ],
        )
