"""`raycls evaluate | models | promote`: what is registered, how good it is, and which one serves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raycls import progress
from raycls.cli.output import AsJson, print_json, print_metrics, print_table
from raycls.errors import UsageError

app = typer.Typer()

Reference = Annotated[str, typer.Argument(help="NAME (its champion), NAME@ALIAS or NAME/VERSION")]


@app.command()
def evaluate(
    model: Reference,
    split: Annotated[str, typer.Option(help="train, val or test")] = "test",
    dataset: Annotated[
        str | None,
        typer.Option(help="another prepared dataset, its classes matched by name; default: the model's own"),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="also write a page that explains the model, for people")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="the page's file; default: NAME-VERSION-report.html")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a registered model on a split of a dataset; explain it in a report.

    Example: raycls evaluate cifar10/3 --report --output cifar10.html
    """
    with progress.bar("loading PyTorch"):
        from raycls import registry
        from raycls.data.packed import open_dataset
        from raycls.models.predictor import Predictor
        from raycls.training.evaluation import match, score
        from raycls.training.report.build import write_report

    if output and not report:
        raise UsageError("--output is the report's file: add --report")
    version = registry.resolve(model)
    predictor = Predictor.load(registry.checkpoint(version))
    examples = match(predictor.card, open_dataset(dataset or predictor.card.dataset), split)
    scores = score(predictor, examples)
    result = scores.evaluation()
    page = output or Path(f"{version.name}-{version.version}-report.html")
    if report:
        write_report(version, predictor, scores, page)
    if as_json:
        print_json(
            {
                "model": version.reference,
                "dataset": examples.dataset,
                **result.metrics(split),
                "class_accuracy": result.class_accuracy,
                "classes": result.classes,
                "confusion": result.confusion.tolist(),
                "model_only_classes": examples.model_only,
                "dataset_only_classes": examples.dataset_only,
                **({"report": str(page)} if report else {}),
            }
        )
        return
    print(f"{version.reference} on {examples.dataset}/{split}")
    print_metrics(result.metrics(split))
    print_table(
        ("class", "accuracy"), [(name, f"{value:.4f}") for name, value in result.class_accuracy.items()]
    )
    if report:
        print(f"report: {page} (and in MLflow run {version.run_id}, under report/)")


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the registered models with their metrics and aliases.

    Example: raycls models
    """
    from raycls import registry

    versions = registry.list_models()
    if as_json:
        print_json(
            [
                {"model": v.reference, "aliases": v.aliases, "run_id": v.run_id, **v.metrics, "tags": v.tags}
                for v in versions
            ]
        )
    elif not versions:
        print("no models yet: make one with `raycls train cifar10`")
    else:
        print_table(
            ("model", "aliases", "val_accuracy", "test_accuracy", "dataset", "run"),
            [
                (
                    v.reference,
                    ", ".join(v.aliases),
                    f"{v.metrics['val_accuracy']:.4f}",
                    f"{v.metrics['test_accuracy']:.4f}",
                    v.fingerprint[:12],
                    v.run_id[:8],
                )
                for v in versions
            ],
        )


@app.command()
def promote(
    model: Annotated[str, typer.Argument(help="a registered model's name")],
    version: Annotated[str, typer.Argument(help="its version number")],
    alias: Annotated[str, typer.Option(help="the alias to give")] = "champion",
    as_json: AsJson = False,
) -> None:
    """Give a version the alias champion, which serving reads when it is deployed.

    Example: raycls promote cifar10 3
    """
    from raycls import registry

    promoted = registry.promote(model, version, alias)
    if as_json:
        print_json({"model": promoted.reference, "aliases": promoted.aliases})
    else:
        print(f"{promoted.reference} is now {alias}")
