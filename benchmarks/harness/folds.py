"""The images of a dataset, dealt out to folds: each one as a dataset whose split test is the fold.

for fold in folds(open_dataset("clothing"), 5, repeats=2):
    with fold.dataset(validation=0.1) as part: …      # splits train, val and test, in a temporary folder
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from raycls.data.manifest import read_rows
from raycls.data.packed import PackedDataset


@dataclass(frozen=True, kw_only=True)
class Fold:
    """One fold: the indices (int64) of its images, and of all others, in the order of the dataset's splits."""

    number: int
    of: PackedDataset
    inside: np.ndarray
    outside: np.ndarray

    @contextmanager
    def dataset(self, validation: float) -> Iterator[PackedDataset]:
        """Yield the fold as a dataset. validation: the share of the other images that become the split val."""
        chooses = round(validation * len(self.outside))
        splits = {
            "train": self.outside[chooses:],
            "val": self.outside[:chooses] if chooses else self.inside,
            "test": self.inside,
        }
        info = self.of.info
        with tempfile.TemporaryDirectory() as folder:
            for split, chosen in splits.items():
                (Path(folder) / split).mkdir()
                for kind, whole in (("images", self.of.images), ("labels", self.of.labels)):
                    every = np.concatenate([whole(each) for each in info.counts])
                    np.save(Path(folder) / split / f"{kind}.npy", every[chosen])
            counts = {split: len(chosen) for split, chosen in splits.items()}
            yield PackedDataset(Path(folder), info.model_copy(update={"counts": counts}))


def folds(dataset: PackedDataset, count: int, repeats: int) -> Iterator[Fold]:
    """Yield each fold of each repeat. Images of one group, such as near-duplicates, are in one fold."""
    groups = read_rows(dataset)["group"].to_numpy(zero_copy_only=False).astype(str)
    names, member_of = np.unique(groups, return_inverse=True)
    for repeat in range(repeats):
        random = np.random.default_rng(repeat)
        fold_of = (random.permutation(len(names)) % count)[member_of]
        for number in range(count):
            outside = random.permutation(np.flatnonzero(fold_of != number))
            yield Fold(
                number=repeat * count + number,
                of=dataset,
                inside=np.flatnonzero(fold_of == number),
                outside=outside,
            )
