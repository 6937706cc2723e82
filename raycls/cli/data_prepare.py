"""`raycls data prepare`: make the next version of a dataset, from a source or from accepted uploads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raycls.cli.output import AsJson, print_json
from raycls.errors import UsageError

if TYPE_CHECKING:
    from raycls.data.packed import DatasetInfo


def prepare_command(
    source: Annotated[
        str,
        typer.Argument(
            help="cifar10, digits, a folder of class folders, an archive, a table, WebDataset tars, a URI, or hf:NAME; "
            "with --add-uploads the name of a dataset"
        ),
    ],
    name: Annotated[str | None, typer.Option(help="name of the dataset; default: the source's name")] = None,
    size: Annotated[
        int | None, typer.Option(min=8, max=1024, help="width and height of the images, pixels")
    ] = None,
    resize: Annotated[
        str | None,
        typer.Option(help="crop (the largest centred square), pad (all, on black) or squash; default: crop"),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="class of a file: the top folder, the leaf, or the whole path of folders; default: top"
        ),
    ] = None,
    group_by: Annotated[
        str | None,
        typer.Option(
            metavar="REGEX",
            help="files in whose path this finds the same text stay in one split: a patient, a video",
        ),
    ] = None,
    mirror: Annotated[
        bool | None,
        typer.Option(
            "--mirror/--no-mirror", help="training may mirror the images left to right; default: it may"
        ),
    ] = None,
    shares: Annotated[
        str | None,
        typer.Option(help="of train, val, gate and test; default: 0.7,0.1,0.1,0.1"),
    ] = None,
    merge_case: Annotated[
        bool, typer.Option("--merge-case", help="class names that differ only in case are one class")
    ] = False,
    exclude: Annotated[
        Path | None,
        typer.Option(help="file with images to leave out: a SHA-256 or a path in the source on each line"),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            help="packed (one array of pixels) or encoded (shards that may stay in a bucket); default: by size"
        ),
    ] = None,
    root: Annotated[
        Path | None, typer.Option(help="for cifar10: folder that has torchvision's files already")
    ] = None,
    add_uploads: Annotated[
        bool,
        typer.Option(
            "--add-uploads",
            help="make the next version of the former one and the accepted uploads; no other options",
        ),
    ] = False,
    trust: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SENDER", help="with --add-uploads: a sender who may give more than a tenth of a class"
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Make the next version of a dataset, if anything differs from the version before.

    Images are decoded, resized, grouped with what is almost the same, and split. An image keeps its split in all later
    versions. An option that is left out is as in the version before.

    Example: raycls data prepare photos/ --size 64 --name pets
    """
    options = {
        "name": name,
        "size": size,
        "resize": resize,
        "labels": labels,
        "group_by": group_by,
        "mirror": mirror,
        "shares": _shares(shares),
        "merge_case": merge_case,
        "exclude": exclude,
        "store": store,
        "root": root,
    }
    if add_uploads:
        _with_uploads(source, options, trust or [], as_json)
        return
    if trust:
        raise UsageError("--trust is for --add-uploads: add that, or leave --trust out")
    from raycls.data.prepare import prepare

    _print(prepare(source, **options).info, as_json)  # type: ignore[arg-type]


def _with_uploads(name: str, options: dict[str, Any], trust: list[str], as_json: bool) -> None:
    unset = {"merge_case": False}
    if given := [option for option, value in options.items() if value is not unset.get(option)]:
        shown = ", ".join(f"--{option.replace('_', '-')}" for option in given)
        raise UsageError(f"--add-uploads takes the settings of the version before: remove {shown}")
    from raycls.lifecycle.next_version import add_uploads

    added = add_uploads(name, trusted=trust)
    if as_json:
        print_json(
            {**added.dataset.info.model_dump(mode="json"), "added": added.count, "waiting": added.waiting}
        )
        return
    _print(added.dataset.info, as_json)
    print(f"{added.count:,} uploads are new in it; {sum(added.waiting.values()):,} wait for a later version")


def _print(info: DatasetInfo, as_json: bool) -> None:
    if as_json:
        print_json(info.model_dump(mode="json"))
        return
    counts = ", ".join(f"{count:,} {split}" for split, count in info.counts.items())
    print(
        f"{info.reference}: {counts}; {len(info.classes)} classes of {info.image_size} pixels, {info.store}"
    )
    print(f"fingerprint {info.fingerprint}")
    if info.left_out:
        print(f"{info.left_out} files are not in it: `raycls data show {info.reference}` lists them")


def _shares(text: str | None) -> tuple[float, ...] | None:
    try:
        return tuple(float(share) for share in text.split(",")) if text else None
    except ValueError:
        raise UsageError(f"--shares {text}: give four numbers, like 0.7,0.1,0.1,0.1") from None
