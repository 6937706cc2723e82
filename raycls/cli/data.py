"""`raycls data`: make dataset versions and look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raycls import progress
from raycls.cli.data_prepare import prepare_command
from raycls.cli.output import AsJson, print_json, print_table
from raycls.errors import RayclsError

app = typer.Typer(no_args_is_help=True, help="Make dataset versions and look at them.", rich_markup_mode=None)

Dataset = Annotated[
    str, typer.Argument(help="NAME (the newest version) or NAME@VERSION; `raycls data list` shows them")
]


app.command("prepare")(prepare_command)


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the dataset versions on this machine.

    Example: raycls data list
    """
    from raycls.data.packed import SPLITS
    from raycls.data.versions import list_datasets

    found = list_datasets()
    if as_json:
        print_json([info.model_dump(mode="json") for info in found])
    elif not found:
        print("no datasets yet: make one with `raycls data prepare cifar10`")
    else:
        print_table(
            ("dataset", "classes", "pixels", *SPLITS, "fingerprint"),
            [
                (
                    info.reference,
                    len(info.classes),
                    info.image_size,
                    *(info.counts.get(split, 0) for split in SPLITS),
                    info.fingerprint[:12],
                )
                for info in found
            ],
        )


@app.command("show")
def show_command(
    dataset: Dataset,
    sheet: Annotated[
        Path | None, typer.Option(help="PNG file for a contact sheet: the first images of each class")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show counts per class and split and what was left out; with --sheet, write a contact sheet.

    Example: raycls data show cifar10 --sheet /tmp/cifar10.png
    """
    from raycls.data.contact_sheet import contact_sheet
    from raycls.data.manifest import read_left_out
    from raycls.data.versions import open_dataset

    opened = open_dataset(dataset)
    info = opened.info
    if sheet:
        try:
            contact_sheet(opened).save(sheet, format="PNG")
        except OSError as error:
            raise RayclsError(
                f"cannot write the contact sheet {sheet}: {error.strerror}; choose another file with --sheet"
            ) from None
    left_out = read_left_out(opened).to_pylist()
    if as_json:
        print_json(
            {
                **info.model_dump(mode="json"),
                "left_out_files": left_out,
                "contact_sheet": sheet and str(sheet),
            }
        )
        return
    splits = list(info.class_counts)
    print_table(
        ("class", *splits),
        [(label, *(info.class_counts[split][i] for split in splits)) for i, label in enumerate(info.classes)]
        + [("all", *info.counts.values())],
    )
    print(f"dataset      {info.reference}")
    print(f"image size   {info.image_size} pixels, {info.resize}")
    print(f"stored       {info.store}")
    print(f"mirrored     {'yes' if info.mirrorable else 'no'}")
    print(f"mean         {' '.join(f'{value:.4f}' for value in info.mean)}")
    print(f"std          {' '.join(f'{value:.4f}' for value in info.std)}")
    print(f"fingerprint  {info.fingerprint}")
    print(f"source       {info.source}")
    print(f"licence      {info.licence}")
    for option, value in info.options.items():
        print(f"{option:<12} {value}")
    print(f"ignored      {info.ignored} files that programs leave behind")
    for file in left_out:
        print(f"left out     {file['source']}: {file['reason']} ({file['kind']})")
    if sheet:
        print(f"contact sheet: {sheet}")


@app.command("check")
def check_command(
    dataset: Dataset,
    model: Annotated[
        str | None,
        typer.Option(
            help="registered model that predicts; default: models are trained on parts of the dataset"
        ),
    ] = None,
    folds: Annotated[
        int, typer.Option(min=2, max=10, help="parts; each is predicted by a model of the others")
    ] = 4,
    preset_name: Annotated[
        str, typer.Option("--preset", help="preset of those trainings; `none` leaves the labels unchecked")
    ] = "quick",
    output: Annotated[
        Path | None, typer.Option(help="file for the page; default: NAME-VERSION-check.html")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find probable label errors, copies, bad pictures, small classes and unlike splits, and write a page about them.

    Example: raycls data check pets --model pets/3
    """
    with progress.bar("loading PyTorch"):
        from raycls.reports.dataset_check import run_check

    done = run_check(dataset, model=model, folds=folds, preset_name=preset_name, output=output)
    if as_json:
        print_json(done.as_json())
        return
    for finding in done.findings:
        print(f"{len(finding.images) or len(finding.sentences):>7,}  {finding.title}")
    print(f"page: {done.page}; list for --exclude: {done.excluded}")


@app.command("diff")
def diff_command(old: Dataset, new: Dataset, as_json: AsJson = False) -> None:
    """Show which images two versions do not share: added, removed, relabelled, moved to another path.

    Example: raycls data diff pets@1 pets@2
    """
    from dataclasses import asdict

    from raycls.data.manifest import difference, read_rows
    from raycls.data.versions import open_dataset

    found = difference(read_rows(open_dataset(old)), read_rows(open_dataset(new)))
    if as_json:
        print_json(asdict(found))
        return
    for kind, images in asdict(found).items():
        for image in images:
            print(f"{kind:<11} {image}")
    if not found:
        print("no image differs")


@app.command("remove")
def remove_command(
    dataset: Annotated[str, typer.Argument(help="NAME@VERSION")],
    force: Annotated[
        bool, typer.Option("--force", help="also where a registered model was trained on it")
    ] = False,
) -> None:
    """Delete a dataset version from this machine.

    Example: raycls data remove pets@1
    """
    from raycls.data.versions import remove
    from raycls.registry.datasets import check_unused

    if not force:
        check_unused(dataset)
    remove(dataset)
    print(f"removed {dataset}")


@app.command("forget")
def forget_command(
    sha256: Annotated[str, typer.Argument(help="SHA-256 of the image file, as manifest.parquet has it")],
) -> None:
    """Take an image out of every dataset version, as when a person asks for it. Models are not changed.

    Example: raycls data forget $(sha256sum photos/cat/1.jpg | cut -c1-64)
    """
    from raycls.data.forget import forget

    for reference in (changed := forget(sha256)):
        print(f"forgotten in {reference}")
    if not changed:
        print("forgotten already")
