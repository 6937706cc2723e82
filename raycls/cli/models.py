"""`raycls evaluate | models`: measure registered models, list them, and show the origin of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raycls import progress
from raycls.cli import promotion
from raycls.cli.output import AsJson, print_json, print_metrics, print_table
from raycls.errors import RegistryError, UsageError
from raycls.metrics import told_calibration

app = typer.Typer()

Reference = Annotated[str, typer.Argument(help="NAME (its champion), NAME@ALIAS or NAME/VERSION")]


@app.command()
def evaluate(
    model: Reference,
    split: Annotated[str, typer.Option(help="train, val, gate or test")] = "test",
    dataset: Annotated[
        str | None,
        typer.Option(
            help="another dataset, matched by class name; default: the version that the model was trained on"
        ),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report", help="also write an HTML page that explains the model")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="file for the page; default: NAME-VERSION-report.html")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure a registered model on one split of a dataset.

    Example: raycls evaluate cifar10/3 --report --output cifar10.html
    """
    with progress.bar("loading PyTorch"):
        from raycls import registry
        from raycls.data.versions import open_by_fingerprint, open_dataset
        from raycls.engines.examples import match
        from raycls.engines.predictor import Predictor
        from raycls.reports.model_report import write_report
        from raycls.training.evaluation import score
        from raycls.training.rejection import kept

    if output and not report:
        raise UsageError("--output names the file of the report: add --report")
    version = registry.resolve(model)
    # A threshold is measured as the engine that it is for sees the images.
    engine = registry.engine_to_serve(version) if version.rejection else "torch"
    predictor = Predictor.load(registry.checkpoint(version), engine=engine)
    card = predictor.card
    measured = open_dataset(dataset) if dataset else open_by_fingerprint(*card.learned_from)
    examples = match(card, measured, split)
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
                **({"rejection": kept(scores, version.rejection).as_json()} if version.rejection else {}),
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
    print(f"calibration error: {told_calibration(result.metrics(split), split)}")
    if version.rejection:
        print(kept(scores, version.rejection).told)
    print_table(
        ("class", "accuracy"), [(name, f"{value:.4f}") for name, value in result.class_accuracy.items()]
    )
    if report:
        print(f"report: {page} (and in MLflow run {version.run_id}, under report/)")


versions = typer.Typer()
app.add_typer(versions, name="models")
versions.add_typer(promotion.versions)


@versions.callback(invoke_without_command=True)
def models(ctx: typer.Context, as_json: AsJson = False) -> None:
    """List the registered models with their metrics and aliases. `raycls models show` shows the origin of one.

    Example: raycls models
    """
    if ctx.invoked_subcommand:
        return
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
        print("there are no models yet: train one with `raycls train cifar10`")
    else:
        print_table(
            ("model", "aliases", "val_accuracy", "test_accuracy", "dataset", "run"),
            [
                (
                    v.reference,
                    ", ".join(v.aliases),
                    *(
                        f"{v.metrics[name]:.4f}" if name in v.metrics else "–"
                        for name in ("val_accuracy", "test_accuracy")
                    ),
                    v.fingerprint[:12],
                    v.run_id[:8],
                )
                for v in versions
            ],
        )


@versions.command()
def show(
    name: Annotated[str, typer.Argument(help="name of a registered model")],
    version: Annotated[str, typer.Argument(help="version number; default: the newest")] = "",
    as_json: AsJson = False,
) -> None:
    """Show the origin of a version, from dataset to checkpoint, and check every step. Exit code 1: a step is broken.

    Example: raycls models show cifar10 3
    """
    from raycls import registry
    from raycls.tuning.lineage import trace

    found = registry.resolve(f"{name}/{version}") if version else registry.newest(name)
    links = trace(found)
    if as_json:
        print_json(
            {
                "model": found.reference,
                "metrics": found.metrics,
                "lineage": [link.__dict__ for link in links],
                "engine": found.engine,
                "rejection": found.rejection and found.rejection.model_dump(),
                "engine_timings": found.engine_timings,
            }
        )
    else:
        for link in links:
            print(f"{link.name:<11} {link.state:<9} {link.value}" + (f"  ({link.told})" if link.told else ""))
        print_metrics(found.metrics)
        if found.rejection:
            print(f"rejects answers: `raycls reject {found.reference}` shows the threshold")
        if found.engine_timings:
            split = found.engine_timings[0].get("split", "val")
            print_table(
                ("engine", "1 image", "32 images", f"accuracy on {split}", "confidence off by", ""),
                [
                    (
                        timing["engine"],
                        f"{timing['one_ms']:.2f} ms",
                        f"{timing['many_ms']:.1f} ms",
                        f"{timing['accuracy']:.4f}" if "accuracy" in timing else "–",
                        f"{timing['mean_difference']:.4f}",
                        "chosen"
                        if timing["engine"] == found.engine
                        else ("" if found.allows(timing["engine"]) else "not allowed"),
                    )
                    for timing in found.engine_timings
                ],
            )
    if any(link.state == "broken" for link in links):
        raise RegistryError(
            f"{found.reference} does not match its record: the lines above say which step is broken"
        )
