"""`raycls export`: write a registered model to one file for programs without raycls."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raycls import progress
from raycls.cli.output import AsJson, print_json

app = typer.Typer()


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="NAME (its champion), NAME@ALIAS or NAME/VERSION")],
    format: Annotated[
        str, typer.Option("--format", help="onnx, torch-export, torchscript or executorch")
    ] = "onnx",
    int8: Annotated[
        bool,
        typer.Option("--int8", help="quantize, calibrated on training images; for onnx and torch-export"),
    ] = False,
    preprocessing: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="an ONNX file that takes a decoded picture of any size, and resizes it as serving does; compared with "
            "serving on the pictures of FOLDER",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="file to write; default: NAME-VERSION and the format's suffix")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a model to one file that takes uint8 images, and compare it with the original.

    Example: raycls export cifar10/3 --format onnx
    """
    with progress.bar("loading PyTorch"):
        from raycls import registry
        from raycls.data.versions import open_by_fingerprint
        from raycls.engines.export import export as write
        from raycls.engines.export_formats import SUFFIX, check
        from raycls.models.card import load_card

    check(format, int8)
    version = registry.resolve(model)
    directory = registry.checkpoint(version)
    card = load_card(directory)
    dataset = open_by_fingerprint(*card.learned_from)
    name = f"{version.name}-{version.version}{'-int8' if int8 else ''}{SUFFIX[format]}"
    result = write(
        directory,
        dataset,
        output or Path(name),
        format=format,
        int8=int8,
        model=version.reference,
        pictures=preprocessing,
    )
    if as_json:
        print_json({"model": version.reference, "format": format, "int8": int8, **result.as_json()})
        return
    print(
        f"{result.path}: {version.reference} as {format}{' int8' if int8 else ''}; description: {result.description}"
    )
    print(
        f"size                  {result.size:,} bytes (weights of the checkpoint: {result.original_size:,})"
    )
    print(f"time for one image    {result.ms:.2f} ms (PyTorch: {result.original_ms:.2f} ms)")
    print(f"max logit difference  {result.max_logit_difference:.2g} on {result.images:,} validation images")
    print(
        f"accuracy              {result.accuracy:.4f} against {result.original_accuracy:.4f} "
        f"({result.accuracy_difference:+.4f})"
    )
    if found := result.on_pictures:
        print(
            f"pictures              {found.pictures:,}, {found.smallest} to {found.largest} pixels, "
            f"{found.ms:.1f} ms for one"
        )
        print(
            f"serving's class       {found.same_class:.1%}; confidences differ by "
            f"{found.mean_confidence_difference:.4f} on average, by {found.max_confidence_difference:.3f} at most"
        )
