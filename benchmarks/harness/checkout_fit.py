"""Train one network with the training loop of whichever raycls is on the path, an older one too.

    PYTHONPATH=../before python benchmarks/harness/checkout_fit.py '{"folder": …, "info": {…}, "preset": "fast", …}'

The folder has {train,val,test}/{images,labels}.npy, which every version of raycls reads. The last line of stdout is one
JSON document: the metrics of each epoch and, for the kept epoch, the predicted classes of the split test. This file
must run with the code of 36cccf9, so it takes what both have.
"""

from __future__ import annotations

import copy
import json
import multiprocessing
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def dataset_of(spec: dict[str, Any]) -> Any:
    """Return the folder as a dataset."""
    from raycls.data import packed

    kind = getattr(packed, "DatasetInfo", None) or packed.Manifest  # type: ignore[attr-defined]
    return packed.PackedDataset(Path(spec["folder"]), kind(**spec["info"]))


def train(rank: int, spec: dict[str, Any]) -> dict[str, Any]:
    """Train as one of the workers, and return the document."""
    from raycls.config import override
    from raycls.models.forward import compute_dtype, forward
    from raycls.training import loop

    try:
        from raycls.training.presets import preset
    except ImportError:
        from raycls.config import preset  # type: ignore[attr-defined, no-redef]

    size = spec["workers"]
    torch.set_num_threads(spec["threads"])
    if size > 1:
        address = f"tcp://127.0.0.1:{spec['port']}"
        dist.init_process_group("gloo", init_method=address, rank=rank, world_size=size)
    dataset = dataset_of(spec)
    facts = getattr(dataset, "info", None) or dataset.manifest
    weights = spec.get("weights")
    if weights:
        from raycls.training.recipes import configured

        config = configured(
            facts, spec["preset"], network=spec["network"], pretrained=True, settings=spec["settings"]
        )
    else:
        config = override(preset(spec["preset"], facts), spec["settings"])
    best: tuple[float, Any] = (-1.0, None)
    epochs = []
    training = loop.start(config, dataset, workers=loop.Workers(rank, size), weights=weights)
    for metrics, _ in training.epochs():
        epochs.append(metrics)
        # Both keep an epoch with whole images: the older one's first epochs are validated on whole ones, and are worse.
        if metrics.get("image_share", 1) == 1 and metrics[config.training.chosen_by] >= best[0]:
            best = metrics[config.training.chosen_by], copy.deepcopy(training.kept).eval()
    if size > 1:
        dist.destroy_process_group()
    images, predicted = torch.from_numpy(dataset.images("test").copy()), []
    dtype = compute_dtype(config.training.precision, torch.device("cpu"))
    for part in images.split(256):
        found = forward(best[1], part, training.card, dtype)
        predicted += (found[0] if isinstance(found, tuple) else found).argmax(1).tolist()
    return {"epochs": epochs, "predicted": predicted}


def main() -> None:
    spec = json.loads(sys.argv[1])
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=train, args=(rank, spec)) for rank in range(1, spec["workers"])]
    for process in others:
        process.start()
    found = train(0, spec)
    for process in others:
        process.join()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
