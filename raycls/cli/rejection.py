"""`raycls reject`: the confidence below which a version's answers do not count."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from raycls import progress
from raycls.cli.output import AsJson, print_json, print_table
from raycls.cli.promotion import Address
from raycls.engines.rejection import Rejection
from raycls.errors import UsageError

app = typer.Typer()


@app.command()
def reject(
    model: Annotated[str, typer.Argument(help="NAME (its champion), NAME@ALIAS or NAME/VERSION")],
    precision: Annotated[
        float | None,
        typer.Option(help="wished share of right answers among those that are not rejected, like 0.98"),
    ] = None,
    by_class: Annotated[
        bool,
        typer.Option("--by-class", help="a threshold for each predicted class that has images enough"),
    ] = False,
    off: Annotated[bool, typer.Option("--off", help="remove the threshold: no answer is rejected")] = False,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Find on the split `val` the lowest confidence above which a version's answers are right that often, and store it
    with the version. From then on each of its answers says whether it is rejected. Where `raycls up` serves the
    version, its replicas take it up. Without an option, show the threshold.

    Example: raycls reject pets/3 --precision 0.98
    """
    from raycls import registry

    if (off or precision is None) and by_class:
        raise UsageError("--by-class goes with --precision")
    if off and precision is not None:
        raise UsageError("--off removes the threshold: leave out --precision")
    if address and not off and precision is None:
        raise UsageError("--address goes with --precision or --off")
    version = registry.resolve(model)
    rejection, few, served = version.rejection, dict[str, int](), None
    if precision is not None:
        with progress.bar("loading PyTorch"):
            from raycls.training.rejection import fitted

        rejection, few = fitted(version, precision, by_class=by_class)
    if off or precision is not None:
        from raycls.serving.control import rollout

        rejection = None if off else rejection
        served = rollout.reject(version, rejection, address=address)
    if as_json:
        given = rejection.model_dump() if rejection else None
        print_json({"model": version.reference, "rejection": given, "few": few, "served": served})
        return
    _print(version.reference, rejection, few)
    if served is False:
        print(
            "no server here serves this version: one takes the change up when it starts or promotes next, and "
            "--address reaches another one now"
        )


def _print(reference: str, rejection: Rejection | None, few: Mapping[str, int]) -> None:
    if rejection is None:
        print(f"{reference} rejects no answer: `raycls reject {reference} --precision 0.98` sets a threshold")
        return
    if rejection.threshold is None:
        print(
            f"{reference} rejects all answers but some of the classes below: no common threshold reaches it"
        )
    else:
        print(f"{reference} rejects answers with a confidence below {rejection.threshold:.4f}")
    print(
        f"on {rejection.dataset}/val: {rejection.answered:,} of {rejection.images:,} images are answered "
        f"({rejection.coverage:.1%}), {rejection.right / max(rejection.answered, 1):.2%} of them right; wished: "
        f"{rejection.precision:.2%}, with a certainty of 95%"
    )
    if rejection.by_class:
        print_table(
            ("class", "threshold"),
            [
                (name, "all rejected" if limit is None else f"{limit:.4f}")
                for name, limit in rejection.by_class.items()
            ],
        )
    if few:
        named = ", ".join(f"{name} ({count})" for name, count in few.items())
        print(
            f"too few images of val for a threshold of their own, so that of all classes together holds: {named}"
        )
    print(f"on test: raycls evaluate {reference}")
