"""A file of weights for the workers of a training or a study, which may run on other nodes.

    source = shared("/home/ada/body.pt")       # "storage:weights/3f…/body.pt" where the nodes share a storage path
    on_this_node(source)                       # the path of a file on this node
    source = shared_folder("/home/ada/weights")                    # a file for each of several networks
    on_this_node(source, "timm/mobilenetv4_conv_small")            # its mobilenetv4_conv_small.pth

Without RAYCLS_STORAGE there is one machine, and the path itself is used. A node copies a file once, into its cache.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path, PurePosixPath

from raycls import home
from raycls.data.files import copy_files, shown
from raycls.errors import SourceError
from raycls.models.timm_networks import PREFIX

SHARED = "storage:"
FOLDER = "weights"
KINDS = (".pt", ".pth", ".safetensors")


def shared(path: str) -> str:
    """Return how all nodes name the file: the path itself, or its place on the storage path, to which it is copied.

    path: absolute, of a file that exists. Raises SourceError where it cannot be copied.
    """
    storage = home.shared_storage()
    if not storage:
        return path
    from pyarrow.fs import FileSystem, FileType

    digest = _digest(Path(path))
    place = f"{FOLDER}/{digest}/{Path(path).name}"
    try:
        filesystem, root = FileSystem.from_uri(storage)
        target = f"{root.rstrip('/')}/{place}"
        found = filesystem.get_file_info(target)
        if found.type == FileType.NotFound or found.size != Path(path).stat().st_size:
            filesystem.create_dir(str(PurePosixPath(target).parent), recursive=True)
            copy_files(path, target, to=filesystem)
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot copy {path} to {shown(storage)}: {shown(str(error))}") from None
    return f"{SHARED}{place}"


def shared_folder(path: str) -> str:
    """Return how all nodes name the files of a folder: one text for all, by the networks that they are named after.

    path: absolute, of a folder. Raises SourceError where there are no files of weights, or one cannot be copied.
    """
    files = {file.stem: file for file in sorted(Path(path).iterdir()) if file.suffix in KINDS}
    if not files:
        raise SourceError(f"{path} has no {', '.join(KINDS)} files: name each after its network")
    return json.dumps({name: shared(str(file)) for name, file in files.items()})


def of_network(source: str, network: str) -> str:
    """Return the source of one network's weights, of what `shared` or `shared_folder` has returned.

    Raises SourceError where the folder had no file of its name.
    """
    if not source.startswith("{"):
        return source
    files: dict[str, str] = json.loads(source)
    name = network.removeprefix(PREFIX)
    if name not in files:
        raise SourceError(
            f"the folder of weights has no {name}{KINDS[1]}: it has {', '.join(files)}, of which each file is for the "
            "network that it is named after"
        )
    return files[name]


def on_this_node(source: str, network: str = "") -> str:
    """Return the path of the file on this node, to which it is copied where it is not here yet.

    source: what `shared` or `shared_folder` has returned, or `pretrained`, which stays. network: whose file of a folder
    it is. Raises SourceError.
    """
    source = of_network(source, network)
    if not source.startswith(SHARED):
        return source
    from pyarrow.fs import FileSystem

    place = PurePosixPath(source.removeprefix(SHARED))
    here = home.home() / "cache" / place
    if here.exists():
        return str(here)
    storage = home.shared_storage()
    if not storage:
        raise SourceError(f"{source} is on a storage path, and this node has no RAYCLS_STORAGE")
    here.parent.mkdir(parents=True, exist_ok=True)
    handle, copy = tempfile.mkstemp(dir=here.parent)
    os.close(handle)
    try:
        filesystem, root = FileSystem.from_uri(storage)
        copy_files(f"{root.rstrip('/')}/{place}", copy, of=filesystem)
        if _digest(Path(copy)) != place.parts[1]:
            raise SourceError(f"{place} on {shown(storage)} is damaged: delete it there, and begin again")
        Path(copy).replace(here)
    except (OSError, ValueError) as error:
        raise SourceError(f"cannot read {place} of {shown(storage)}: {shown(str(error))}") from None
    finally:
        Path(copy).unlink(missing_ok=True)
    return str(here)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
