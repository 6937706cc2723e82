"""`raycls uploads`: take pictures into the review queue, look at them, decide about them, remove them."""

from __future__ import annotations

import getpass
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from raycls import progress
from raycls.cli.output import AsJson, print_json, print_table
from raycls.errors import UsageError

if TYPE_CHECKING:
    from raycls.lifecycle.intake import Answer
    from raycls.lifecycle.records import Record

app = typer.Typer(no_args_is_help=True, help="Review the pictures that people send.", rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="name of a dataset")]
Pictures = Annotated[
    list[str], typer.Argument(metavar="SHA...", help="SHA-256 of pictures, or their first 8 digits or more")
]
By = Annotated[
    str | None, typer.Option("--by", help="who decides or sends; default: the user of this machine")
]
STATES = ("waiting", "accepted", "rejected", "expired", "purged", "all")


@app.command("add")
def add_command(
    name: Name,
    paths: Annotated[
        list[Path], typer.Argument(help="pictures or folders of one class, or zips of class folders")
    ],
    label: Annotated[str | None, typer.Option(help="class of the pictures; a zip has class folders")] = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Check pictures and put them into the review queue of a dataset. A picture that is there already stays as it is.

    Example: raycls uploads add pets tabby.jpg siamese.png --label cat
    """
    from raycls.lifecycle.intake import Answer, add, add_zip
    from raycls.lifecycle.uploads import Uploads

    zips = [path for path in paths if path.suffix.lower() == ".zip"]
    files = list(_files([path for path in paths if path not in zips]))
    if files and label is None:
        raise UsageError(f"{files[0]} has no label: give --label, or send a zip of class folders")
    if zips and label is not None:
        raise UsageError("--label is for pictures, but a zip has class folders: add them in two calls")
    uploads, answer = Uploads(), Answer()
    with progress.bar("checking pictures", len(files) + len(zips)) as bar:
        for path in zips:
            with _opened(path) as file:
                answer = _sum(answer, add_zip(uploads, name, file, sender=who(by)))
            bar.advance()

        def read() -> Iterator[tuple[str, bytes]]:
            for path in files:
                with _opened(path) as file:
                    yield path.name, file.read()
                bar.advance()

        if files and label is not None:
            answer = _sum(answer, add(uploads, name, read(), label=label, sender=who(by)))
    if as_json:
        print_json(answer.as_json())
        return
    for refused in answer.refused:
        print(f"refused  {refused.file}: {refused.reason}")
    for known in answer.known:
        print(f"known    {known.file}: {known.state} as {known.label}")
    new = sorted({taken.label for taken in answer.taken if taken.new_class})
    print(
        f"{len(answer.taken):,} taken, {len(answer.known):,} known, {len(answer.refused):,} refused"
        + (f"; new classes: {', '.join(new)}" if new else "")
    )


@app.command("list")
def list_command(
    name: Name,
    state: Annotated[str, typer.Option(help=", ".join(STATES))] = "waiting",
    sender: Annotated[str | None, typer.Option(help="of this sender only")] = None,
    label: Annotated[str | None, typer.Option(help="of this class only")] = None,
    page: Annotated[int, typer.Option(min=1, help="page, from 1")] = 1,
    size: Annotated[int, typer.Option(min=1, max=100_000, help="pictures on a page")] = 100,
    as_json: AsJson = False,
) -> None:
    """List the pictures of a dataset's review queue, the oldest first.

    Example: raycls uploads list pets --state waiting
    """
    from raycls.data.versions import open_dataset
    from raycls.lifecycle.review import list_uploads
    from raycls.lifecycle.uploads import Uploads

    if state not in STATES:
        raise UsageError(f"--state {state} is unknown: choose one of {', '.join(STATES)}")
    found = list_uploads(
        Uploads(),
        name,
        classes=open_dataset(name).info.classes,
        state=None if state == "all" else state,  # type: ignore[arg-type]
        sender=sender,
        label=label,
        page=page,
        size=size,
    )
    if as_json:
        print_json(found.as_json())
        return
    print_table(
        ("picture", "label", "state", "source", "sender", "sent", "bytes"),
        [
            (
                record.sha256[:12],
                record.label + (" (new class)" if found.is_new_class(record) else ""),
                record.state,
                record.source,
                record.sender,
                time.strftime("%Y-%m-%d %H:%M", time.localtime(record.time)),
                f"{record.size:,}",
            )
            for record in found.records
        ],
    )
    print(f"page {found.page} of {found.pages}: {found.total:,} pictures")


@app.command("accept")
def accept_command(name: Name, pictures: Pictures, by: By = None, as_json: AsJson = False) -> None:
    """Accept pictures: the next dataset version has them.

    Example: raycls uploads accept pets 8c1d0f3a 77e2b1c4
    """
    from raycls.lifecycle.review import accept
    from raycls.lifecycle.uploads import Uploads

    _print(accept(Uploads(), name, pictures, by=who(by)), as_json)


@app.command("relabel")
def relabel_command(
    name: Name,
    picture: Annotated[
        str, typer.Argument(metavar="SHA", help="SHA-256 of a picture, or its first 8 digits or more")
    ],
    label: Annotated[str, typer.Argument(help="the right class")],
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Accept a picture as one of another class.

    Example: raycls uploads relabel pets 8c1d0f3a dog
    """
    from raycls.data.versions import open_dataset
    from raycls.lifecycle.review import relabel
    from raycls.lifecycle.uploads import Uploads

    classes = open_dataset(name).info.classes
    _print([relabel(Uploads(), name, picture, label, by=who(by), classes=classes)], as_json)


@app.command("reject")
def reject_command(name: Name, pictures: Pictures, by: By = None, as_json: AsJson = False) -> None:
    """Reject pictures: no later dataset version has them.

    Example: raycls uploads reject pets 8c1d0f3a
    """
    from raycls.lifecycle.review import reject
    from raycls.lifecycle.uploads import Uploads

    _print(reject(Uploads(), name, pictures, by=who(by)), as_json)


@app.command("purge")
def purge_command(
    picture: Annotated[str, typer.Argument(metavar="SHA", help="SHA-256 of a picture")],
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Remove a picture everywhere: from the store, the queues and every dataset version. Models are not changed.

    Example: raycls uploads purge $(sha256sum cat.jpg | cut -c1-64)
    """
    from raycls.lifecycle.review import purge
    from raycls.lifecycle.uploads import Uploads

    changed = purge(Uploads(), picture, by=who(by))
    if as_json:
        print_json({"purged": picture, "changed": changed})
        return
    print("purged" + (f", also from {', '.join(changed)}" if changed else "; no dataset version had it"))


def who(by: str | None) -> str:
    """Return who decides or sends. Raises UsageError where this machine's user has no name."""
    try:
        return by or getpass.getuser()
    except (OSError, KeyError):  # a container may have no name for its user
        raise UsageError("the user of this machine has no name: give one with --by") from None


def _files(paths: list[Path]) -> Iterator[Path]:
    from raycls.data.sources.tree import is_litter

    for path in paths:
        if path.is_dir():
            yield from (
                file for file in sorted(path.iterdir()) if file.is_file() and not is_litter(file.name)
            )
        else:
            yield path


def _opened(path: Path) -> BinaryIO:
    if not path.is_file():  # to open a FIFO could wait for ever
        raise UsageError(f"{path} is no file: give pictures, folders of pictures or zips")
    try:
        return path.open("rb")
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}; change its permissions") from None


def _sum(first: Answer, second: Answer) -> Answer:
    from dataclasses import fields

    return type(first)(*(getattr(first, part.name) + getattr(second, part.name) for part in fields(first)))


def _print(records: list[Record], as_json: bool) -> None:
    if as_json:
        print_json([record.as_json() for record in records])
        return
    for record in records:
        print(f"{record.sha256[:12]}  {record.state} as {record.label}")
