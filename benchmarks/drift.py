"""What the watch over drift costs, how often it alarms for nothing, and what it finds.

    python benchmarks/drift.py cost                       # µs for each image
    python benchmarks/drift.py alarms                     # the latest champion, on the `test` split of its dataset
    python benchmarks/drift.py alarms --model nine/1 --dataset cifar10     # classes that the model does not know

`alarms` makes the reference from `val` of the model's dataset. It draws windows of ordinary images of `test`, and
windows in which a share of the images is changed. The documents go to OUTPUT/drift/ (default: benchmarks/results), and
the page OUTPUT/drift.md is rebuilt. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from harness import drift_page, results_page
from harness.results_page import Row

from raycls import command, progress, registry
from raycls.data.packed import PackedDataset
from raycls.data.tensors import as_tensor
from raycls.data.versions import open_by_fingerprint, open_dataset
from raycls.drift.examine import examine
from raycls.drift.reference import Reference, make, of_split, original_sizes
from raycls.drift.window import HELD, Window
from raycls.engines import openvino
from raycls.engines.build import Run
from raycls.engines.predictor import softmax
from raycls.models import checkpoint
from raycls.models.base import Network
from raycls.models.forward import forward
from raycls.training.evaluation import match

HERE = Path(__file__).parent
SIZES, SHARES = (200, 500, 2000), (1.0, 0.5, 0.2, 0.1)
ORDINARY, CHANGED = 100, 20  # windows of each kind

Outputs = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def outputs_of(network: Network, card: checkpoint.ModelCard) -> Outputs:
    """Return a function from uint8 N×S×S×3 to probabilities (N×C) and the head's input (N×D), both float32."""

    def outputs(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        logits, embeddings = forward(network, as_tensor(images), card, torch.float32)
        return softmax(logits.numpy()), embeddings.numpy()

    return outputs


@dataclass(frozen=True)
class Answers:
    """Images (uint8 N×S×S×3) with their sizes (N×2) and what a model says of them (N×C, N×D)."""

    images: np.ndarray
    sizes: np.ndarray
    probabilities: np.ndarray
    embeddings: np.ndarray

    def alarms(self, reference: Reference, others: Answers, chosen: np.ndarray, changed: int) -> list[str]:
        """Return the features that alarm in a window: `changed` images of `others`, the rest of these.

        chosen: int64 N, indices into both.
        """
        window = Window(reference)
        for source, rows in ((others, chosen[:changed]), (self, chosen[changed:])):
            if len(rows):
                window.update(
                    source.probabilities[rows],
                    source.embeddings[rows],
                    source.images[rows],
                    source.sizes[rows],
                )
        return [finding.feature for finding in examine(reference, window.take()) if finding.alarm]


def answers(outputs: Outputs, images: np.ndarray, sizes: np.ndarray) -> Answers:
    parts = [outputs(images[i : i + 500]) for i in range(0, len(images), 500)]
    probabilities, embeddings = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Answers(images, sizes, probabilities, embeddings)


def noisy(images: np.ndarray, deviation: float) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, deviation, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


def alarms(model: str | None, dataset: str | None) -> Iterator[list[Row]]:
    """Yield the rows so far: for each kind of change, share and window, how many windows alarm."""
    directory = registry.checkpoint(registry.resolve(model))
    network, card = checkpoint.load(directory)
    outputs = outputs_of(network, card)
    own = open_by_fingerprint(*card.learned_from)
    with progress.bar("the reference, of val"):
        reference = of_split(outputs, own)
    shown = open_dataset(dataset) if dataset else own
    known = match(card, shown, "test")
    images, sizes = known.pixels(slice(None)), _sizes(shown)
    ordinary = answers(outputs, images, sizes[known.rows])
    rows: list[Row] = []
    random = np.random.default_rng(0)
    sizes_of_windows = [size for size in SIZES if size <= len(images)]
    for size in sizes_of_windows:
        windows = [random.permutation(len(images))[:size] for _ in range(ORDINARY)]
        rows.append(
            _row("ordinary", 0.0, size, [ordinary.alarms(reference, ordinary, w, 0) for w in windows])
        )
        yield rows
    kinds = {
        "noise, standard deviation 25 of 255": noisy(images, 25),
        "noise, standard deviation 10 of 255": noisy(images, 10),
        "dark: 40% of the brightness": (images * 0.4).astype(np.uint8),
    }
    others = {name: answers(outputs, changed, ordinary.sizes) for name, changed in kinds.items()}
    if unknown := np.flatnonzero(~np.isin(np.arange(len(sizes)), known.rows)).tolist():
        unseen = np.resize(random.permutation(unknown), len(images))
        others[f"unseen: {', '.join(known.dataset_only)}"] = answers(
            outputs, shown.images("test")[unseen], sizes[unseen]
        )
    for size in sizes_of_windows:
        for share in SHARES:
            changed = round(share * size)
            for name, other in others.items():
                drawn = [random.permutation(len(images))[:size] for _ in range(CHANGED)]
                rows.append(
                    _row(name, share, size, [ordinary.alarms(reference, other, w, changed) for w in drawn])
                )
            rows.append(
                _row(
                    "one class only",
                    share,
                    size,
                    _one_class(reference, ordinary, known.labels, size, changed),
                )
            )
            yield rows


def _one_class(
    reference: Reference, ordinary: Answers, labels: np.ndarray, size: int, changed: int
) -> list[list[str]]:
    """Return the alarms of windows in which `changed` images have the same true class, another in each window."""
    random = np.random.default_rng(1)
    found = []
    for turn in range(CHANGED):
        of_class = np.flatnonzero(labels == turn % (labels.max() + 1))
        chosen = np.concatenate(
            [
                np.resize(random.permutation(of_class), changed),
                random.permutation(len(labels))[: size - changed],
            ]
        )
        found.append(ordinary.alarms(reference, ordinary, chosen, changed))
    return found


def _sizes(dataset: PackedDataset) -> np.ndarray:
    side = dataset.info.image_size
    found = original_sizes(dataset, "test")
    return np.full((dataset.info.counts["test"], 2), side) if found is None else found


def _row(name: str, share: float, size: int, found: list[list[str]]) -> Row:
    return {
        "change": name,
        "share": share,
        "window": size,
        "windows": len(found),
        "alarmed": sum(bool(features) for features in found),
        "features": dict(Counter(feature for features in found for feature in features)),
    }


def cost(rounds: int) -> Iterator[list[Row]]:
    """Yield the rows so far: the time of an update and of a forward pass of fastcnn, on one thread, in turns.

    The pass is that of the engine `openvino`, which serves networks on processors.
    """
    torch.set_num_threads(1)
    random = np.random.default_rng(0)
    rows: list[Row] = []
    _, card = checkpoint.load(registry.checkpoint(registry.resolve(None)))
    for side in (32, 224):
        card = card.model_copy(update={"image_size": side})
        network = card.build().eval()
        outputs, served = outputs_of(network, card), openvino.build(network, card, threads=1)
        some = answers(
            outputs, random.integers(0, 256, (200, side, side, 3), dtype=np.uint8), np.full((200, 2), side)
        )
        reference = make(some.probabilities, some.embeddings, some.images, some.sizes)
        for batch in (1, 32):
            for _ in range(rounds):
                update_s, pass_s = _update_s(reference, some, batch), _pass_s(served, some.images[:batch])
                rows.append(
                    {"side": side, "batch": batch, "update_us": update_s * 1e6, "forward_us": pass_s * 1e6}
                )
            yield rows


def _update_s(reference: Reference, some: Answers, batch: int) -> float:
    """Return the seconds that an update takes for each image."""
    window = Window(reference)
    arrays = (some.probabilities[:batch], some.embeddings[:batch], some.images[:batch], some.sizes[:batch])
    return _seconds(lambda: window.update(*arrays), 20 * HELD // batch) / batch


def _pass_s(run: Run, images: np.ndarray) -> float:
    """Return the seconds that a forward pass takes for each image."""
    return _seconds(lambda: run(images), 20) / len(images)


def _seconds(call: Callable[[], object], times: int) -> float:
    """Return the mean CPU time of a call, which other programs on the machine change less than its duration."""
    started = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - started) / times


def main(arguments: list[str]) -> None:
    """Measure one part, rebuild the page and print the rows. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=["cost", "alarms"])
    parser.add_argument("--rounds", type=int, default=20, help="of `cost`")
    parser.add_argument("--model", help="NAME, NAME@ALIAS or NAME/VERSION (default: the latest champion)")
    parser.add_argument("--dataset", help="whose `test` split is shown to the model (default: the model's)")
    parser.add_argument("--output", type=Path, default=HERE / "results")
    options = parser.parse_args(arguments)
    if options.part == "cost":
        name, facts, growing = "cost", {"rounds": options.rounds}, cost(options.rounds)
    else:
        version = registry.resolve(options.model)
        name, facts = f"alarms-{version.name}", {"model": version.reference, "dataset": options.dataset}
        growing = alarms(version.reference, options.dataset)
    documents = (results_page.document(name, facts, rows) for rows in growing)
    file, last = results_page.keep_last(options.output, "drift", documents)
    drift_page.write(options.output)
    progress.say(f"written: {file}")
    print(json.dumps({"benchmark": "drift", "rows": last["rows"]}))


if __name__ == "__main__":
    command.run(main)
