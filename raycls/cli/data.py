"""`raycls data`: prepare datasets and look at them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raycls.cli.output import AsJson, print_json, print_table
from raycls.errors import RayclsError

app = typer.Typer(no_args_is_help=True, help="Prepare datasets and look at them.", rich_markup_mode=None)

Dataset = Annotated[str, typer.Argument(help="name of a prepared dataset; `raycls data list` shows them")]


@app.command("prepare")
def prepare_command(
    source: Annotated[str, typer.Argument(help="cifar10, digits, or a folder with one subfolder per class")],
    root: Annotated[
        Path | None, typer.Option(help="folder that has torchvision's CIFAR-10 files already")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=8, max=1024, help="width and height of the packed images, pixels")
    ] = None,
    name: Annotated[str | None, typer.Option(help="name of the dataset; default: the source's name")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an existing dataset of this name")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a dataset from a source: images are decoded, resized, split and packed into arrays.

    Example: raycls data prepare photos/ --size 64 --name pets
    """
    from raycls.data.sources import prepare

    manifest = prepare(source, root=root, size=size, name=name, force=force).manifest
    if as_json:
        print_json(manifest.model_dump(mode="json"))
    else:
        counts = ", ".join(f"{count:,} {split}" for split, count in manifest.counts.items())
        print(f"{manifest.name}: {counts}; {len(manifest.classes)} classes of {manifest.image_size} pixels")
        print(f"fingerprint {manifest.fingerprint}")
        if manifest.skipped:
            print(
                f"{len(manifest.skipped)} files were skipped: `raycls data show {manifest.name}` lists them"
            )


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the prepared datasets.

    Example: raycls data list
    """
    from raycls.data.packed import list_datasets

    manifests = list_datasets()
    if as_json:
        print_json([manifest.model_dump(mode="json") for manifest in manifests])
    elif not manifests:
        print("no datasets yet: make one with `raycls data prepare cifar10`")
    else:
        print_table(
            ("dataset", "classes", "pixels", "train", "val", "test", "fingerprint"),
            [
                (m.name, len(m.classes), m.image_size, *m.counts.values(), m.fingerprint[:12])
                for m in manifests
            ],
        )


@app.command("push")
def push_command(name: Dataset) -> None:
    """Copy a dataset to RAYCLS_STORAGE. The nodes of a cluster fetch it from there when they need it.

    Example: RAYCLS_STORAGE=s3://bucket/raycls raycls data push pets
    """
    from raycls.data.packed import open_dataset
    from raycls.data.push_pull import push

    dataset = open_dataset(name)
    print(f"{name}, fingerprint {dataset.manifest.fingerprint[:12]}: {push(dataset)}")


@app.command("show")
def show_command(
    name: Dataset,
    sheet: Annotated[Path | None, typer.Option(help="file for the contact sheet; default: NAME.png")] = None,
    as_json: AsJson = False,
) -> None:
    """Show counts per class and split, mean, std and fingerprint, and write a contact sheet.

    Example: raycls data show cifar10 --sheet /tmp/cifar10.png
    """
    from raycls.data.contact_sheet import contact_sheet
    from raycls.data.packed import open_dataset

    dataset = open_dataset(name)
    path = sheet or Path(f"{name}.png")
    try:
        contact_sheet(dataset).save(path, format="PNG")
    except OSError as error:
        raise RayclsError(
            f"cannot write the contact sheet {path}: {error.strerror}; choose another file with --sheet"
        ) from None
    manifest = dataset.manifest
    if as_json:
        print_json({**manifest.model_dump(mode="json"), "contact_sheet": str(path)})
        return
    splits = list(manifest.class_counts)
    print_table(
        ("class", *splits),
        [
            (label, *(manifest.class_counts[split][i] for split in splits))
            for i, label in enumerate(manifest.classes)
        ]
        + [("all", *manifest.counts.values())],
    )
    print(f"image size   {manifest.image_size} pixels")
    print(f"mean         {' '.join(f'{value:.4f}' for value in manifest.mean)}")
    print(f"std          {' '.join(f'{value:.4f}' for value in manifest.std)}")
    print(f"fingerprint  {manifest.fingerprint}")
    print(f"source       {manifest.source}")
    print(f"licence      {manifest.licence}")
    for file in manifest.skipped:
        print(f"skipped      {file.path}: {file.reason}")
    print(f"contact sheet: {path}")
