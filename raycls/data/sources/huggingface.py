"""Datasets of Hugging Face: a folder that `datasets` saved, or a name on the hub.

    listing = list_saved("pets-saved")            # Dataset.save_to_disk
    folder = on_the_hub("hf:microsoft/cats_vs_dogs")  # a URI, with Parquet files below it

No code of a dataset is run: only Arrow and Parquet files are read. The hub needs the extra `huggingface`.
"""

from __future__ import annotations

import json
from pathlib import Path

from raycls.data.files import files_below
from raycls.data.listing import SPLIT_NAMES, Listing
from raycls.data.sources.table import PIXELS, class_names, named
from raycls.errors import DataError, UsageError

HUB = "hf:"
CONVERTED = (
    "refs%2Fconvert%2Fparquet"  # the branch in which the hub keeps its own Parquet copy of any dataset
)


def is_saved(folder: Path) -> bool:
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def list_saved(folder: Path) -> Listing:
    """Return the images of a saved Dataset, or of a DatasetDict, whose keys are the splits. Raises DataError."""
    listing = Listing(source=str(folder))
    try:
        if (folder / "dataset_dict.json").is_file():
            for split in json.loads((folder / "dataset_dict.json").read_text())["splits"]:
                _add(listing, folder / split, SPLIT_NAMES.get(split.lower()))
        else:
            _add(listing, folder, None)
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{folder} is no whole saved dataset: {error}") from error
    return listing


def on_the_hub(name: str) -> str:
    """Return the URI of the folder with the Parquet files of a dataset on the hub, NAME or OWNER/NAME after `hf:`.

    Raises UsageError if the extra `huggingface` is not installed or the hub has no such dataset.
    """
    try:
        import huggingface_hub  # noqa: F401
    except ImportError:
        raise UsageError('the hub needs another package: pip install "raycls[huggingface]"') from None
    dataset = name.removeprefix(HUB).removeprefix("//").removeprefix("datasets/")
    reasons = []
    for revision in ("", f"@{CONVERTED}"):
        uri = f"hf://datasets/{dataset}{revision}"
        try:
            if any(path.endswith(".parquet") for path, _, _ in files_below(uri)):
                return uri
            reasons.append("it has no Parquet files")
        except FileNotFoundError:
            reasons.append("there is none of this name, or it is private")
        except (OSError, ValueError) as error:
            reasons.append(str(error).splitlines()[0])
    raise UsageError(f"the hub does not give the dataset {dataset}: {reasons[0]}")


def _add(listing: Listing, folder: Path, split: str | None) -> None:
    import pyarrow as pa

    for entry in json.loads((folder / "state.json").read_text())["_data_files"]:
        file = folder / entry["filename"]
        with pa.memory_map(str(file)) as mapped:
            reader = pa.ipc.open_stream(mapped)
            image = next((name for name in PIXELS if name in reader.schema.names), None)
            if image is None or "label" not in reader.schema.names:
                raise DataError(
                    f"{file} has the columns {', '.join(reader.schema.names)}: it needs image (or bytes) and label"
                )
            names = class_names(reader.schema)
            changed = file.stat().st_mtime_ns
            row = 0
            for number, batch in enumerate(reader):
                for inside, value in enumerate(batch.column("label").to_pylist()):
                    source, label = f"{file.relative_to(listing.source)}, row {row}", named(value, names)
                    row += 1
                    if not label:
                        listing.leave_out(source, "unreadable", "no label")
                        continue
                    where = ("arrow", str(file), number, image, inside, changed)
                    listing.add(source=source, label=label, split=split, where=where)
