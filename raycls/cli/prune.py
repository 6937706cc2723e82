"""`raycls prune`: make a smaller version of a model."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from raycls import progress
from raycls.cli.output import AsJson, print_json, print_table
from raycls.cli.training import ModelName, Preset, Seed, Settings, UseGpu, Workers, print_version

app = typer.Typer()


@app.command()
def prune(
    model: Annotated[str, typer.Argument(help="NAME (its champion), NAME@ALIAS or NAME/VERSION")],
    share: Annotated[
        float, typer.Option(help="share of the network's multiplications that goes, between 0 and 1")
    ] = 0.5,
    preset: Preset = None,
    seed: Seed = None,
    settings: Settings = None,
    workers: Workers = None,
    use_gpu: UseGpu = None,
    name: ModelName = None,
    as_json: AsJson = False,
) -> None:
    """Take channels from a model's network, train the smaller network on the same images, and register it.

    Example: raycls prune pets/3 --share 0.5
    """
    with progress.bar("loading PyTorch"):
        from raycls.training import prune as pruning

    found = pruning.prune(
        model,
        share,
        preset=preset or "fast",
        settings=[f"training.seed={seed or 0}", *(settings or ())],
        workers=workers,
        use_gpu=use_gpu,
        model=name,
    )
    version = found.trained.version
    assert version is not None
    if as_json:
        sizes = {"before": asdict(found.before), "after": asdict(found.after)}
        parent = {"parent": found.parent.reference, "parent_test_accuracy": found.accuracy}
        print_json(
            {
                "model": version.reference,
                "run_id": found.trained.run_id,
                **parent,
                **sizes,
                **found.trained.metrics,
            }
        )
        return
    print_version(found.trained, False)
    accuracies = (found.accuracy, found.trained.metrics["test_accuracy"])
    rows = [
        (
            reference,
            "–" if accuracy is None else f"{accuracy:.4f}",
            f"{cost.parameters / 1e6:,.2f}",
            f"{cost.macs / 1e6:,.1f}",
            *(f"{cost.ms[engine]:.2f}" if engine in cost.ms else "–" for engine in found.before.ms),
        )
        for reference, accuracy, cost in zip(
            (found.parent.reference, version.reference),
            accuracies,
            (found.before, found.after),
            strict=True,
        )
    ]
    engines = (f"{engine}, ms" for engine in found.before.ms)
    print_table(("version", "test accuracy", "million parameters", "million MACs", *engines), rows)
