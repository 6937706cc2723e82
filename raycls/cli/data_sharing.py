"""`raycls data push` and `raycls data pull`: dataset versions to and from RAYCLS_STORAGE."""

from __future__ import annotations

import typer

from raycls.cli.data import Dataset
from raycls.errors import UsageError

app = typer.Typer()


@app.command("push")
def push_command(dataset: Dataset) -> None:
    """Copy a dataset version to RAYCLS_STORAGE. The nodes of a cluster fetch it from there when they need it.

    Example: RAYCLS_STORAGE=s3://bucket/raycls raycls data push pets
    """
    from raycls.data.sharing import push
    from raycls.data.versions import open_dataset

    opened = open_dataset(dataset)
    print(f"{opened.info.reference}, fingerprint {opened.info.fingerprint[:12]}: {push(opened)}")


@app.command("pull")
def pull_command(dataset: Dataset) -> None:
    """Copy a dataset version, or the newest one, from RAYCLS_STORAGE to this machine, with its shards.

    Example: RAYCLS_STORAGE=s3://bucket/raycls raycls data pull pets@2
    """
    from raycls import home
    from raycls.data.files import shown
    from raycls.data.layout import parse
    from raycls.data.sharing import pull
    from raycls.data.versions import open_dataset

    if not home.shared_storage():
        raise UsageError("RAYCLS_STORAGE is not set: set it to the path that the dataset was pushed to")
    if not pull(*parse(dataset), shards=True):
        raise UsageError(f"{shown(home.shared_storage() or '')} has no dataset {dataset}")
    info = open_dataset(dataset).info
    print(f"{info.reference}, fingerprint {info.fingerprint[:12]}")
