"""Groups of images that must not be divided between splits: the same bytes, near-duplicates, and the user's own groups.

    found = find_groups(sha256, hashes, keys, labels, former, pixels)
    found.names, found.left_out

Near-duplicates have perceptual hashes that differ in few bits, and their pixels correlate. Where pictures of a class
are all alike, as from a fixed camera, that says nothing: the links of a group that would hold most of its class are
tightened until it does not. This module knows digests, hashes and pixels. It does not know files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from raycls.data.similarity import NEAR, descriptors
from raycls.data.splits import NEW

TIGHTER = (NEAR, 0.99, 0.997, 0.9995)  # correlations; from the last one on, images are always linked
LARGEST = 0.5  # of the images of a class in one group of near-duplicates
ALWAYS_FINE = 5  # images in a group
MOST_BITS = 8  # by which the hashes of near-duplicates differ
BANDS = 4  # of 16 bits: near-duplicates have one in common
CROWD = 1000  # images with a band in common, above which each is compared with its neighbours only
NEIGHBOURS = 50
BLOCK_BYTES = 64 << 20  # of the images that are compared at a time

Pixels = Callable[[np.ndarray], np.ndarray]  # positions, int64 M, to uint8 M×S×S×3


@dataclass(frozen=True)
class Former:
    """What an earlier version says of each image: the name of its group, and its split or NEW. str N and int64 N."""

    groups: np.ndarray
    splits: np.ndarray


@dataclass(frozen=True)
class Groups:
    """The group of each image, the pairs of near-duplicates or copies, and the images that are to be left out.

    names: str N. pairs: int64 M×2. left_out: bool N, new images that are like images of two splits. cut: the number of
    pairs that are alike and are not linked, because a whole class is alike.
    """

    names: np.ndarray
    pairs: np.ndarray
    left_out: np.ndarray
    cut: int = 0


def find_groups(
    sha256: np.ndarray,
    hashes: np.ndarray,
    keys: np.ndarray,
    labels: np.ndarray,
    former: Former,
    pixels: Pixels,
    *,
    keep_all: bool = False,
) -> Groups:
    """Return the groups of N images.

    sha256: str N. hashes: uint64 N. keys: str N, the user's group or "". labels: int64 N. pixels returns the images at
    some positions. The names of former groups are kept, and the links between former images are not looked at again.
    keep_all: leave no image out.
    """
    count = len(sha256)
    is_new = former.splits == NEW
    same = np.concatenate([_stars(sha256, is_new), _stars(keys, is_new), _stars(former.groups, is_new)])
    pairs = candidates(hashes, is_new)
    alike = _correlations(pairs, pixels)
    # The same bytes are the same image, whatever they show.
    alike[sha256[pairs[:, 0]] == sha256[pairs[:, 1]]] = 1
    pairs, alike = pairs[alike >= TIGHTER[0]], alike[alike >= TIGHTER[0]]
    kept = _tightened(count, pairs, alike, labels)
    links = np.concatenate([same, pairs[kept]])
    left_out = np.zeros(count, dtype=bool) if keep_all else _between_splits(links, former.splits)
    links = links[~left_out[links].any(1)]
    _, component = _components(count, links)
    copies = _stars(sha256, np.ones(count, dtype=bool))
    return Groups(
        _names(component, sha256, keys, former.groups),
        np.unique(np.concatenate([copies, pairs[kept]]), axis=0),
        left_out,
        int((~kept).sum()),
    )


def candidates(hashes: np.ndarray, is_new: np.ndarray) -> np.ndarray:
    """Return the pairs of images, at least one of them new, whose hashes have a band in common: int64 M×2, sorted.

    At most MOST_BITS bits of the two hashes differ.
    """
    found = np.empty((0, 2), dtype=np.int64)
    for band in range(BANDS):
        values = (hashes >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.lexsort((hashes, values))
        bounds = np.flatnonzero(np.diff(values[order])) + 1
        of_band = [found]
        for run in np.split(order, bounds):
            if len(run) < 2 or not is_new[run].any():
                continue
            for distance in range(1, len(run) if len(run) <= CROWD else NEIGHBOURS):
                pairs = np.stack([run[:-distance], run[distance:]], axis=1)
                near = np.bitwise_count(hashes[pairs[:, 0]] ^ hashes[pairs[:, 1]]) <= MOST_BITS
                if near.any():
                    of_band.append(np.sort(pairs[near & is_new[pairs].any(1)], axis=1))
        found = np.unique(np.concatenate(of_band), axis=0)
    return found


def _stars(values: np.ndarray, is_new: np.ndarray) -> np.ndarray:
    """Return links between images with the same value, int64 M×2: each to one of them, a former one if there is one.

    Images with the value "" are not linked.
    """
    positions = np.flatnonzero(values != "")
    order = positions[np.lexsort((positions, is_new[positions], values[positions]))]
    first = np.ones(len(order), dtype=bool)
    first[1:] = values[order][1:] != values[order][:-1]
    centres = order[np.maximum.accumulate(np.where(first, np.arange(len(order)), 0))] if len(order) else order
    return np.stack([centres, order], axis=1)[~first]


def _correlations(pairs: np.ndarray, pixels: Pixels) -> np.ndarray:
    """Return the correlation of each pair, float64 M."""
    alike = np.zeros(len(pairs))
    if not len(pairs):
        return alike
    bytes_of_one = pixels(pairs[0, :1])[0].size * 5  # as uint8 and as float32
    size = max(1, BLOCK_BYTES // (2 * bytes_of_one))
    for start in range(0, len(pairs), size):
        block = pairs[start : start + size]
        members, place = np.unique(block, return_inverse=True)
        unit = descriptors(pixels(members)).reshape(len(members), -1)
        first, second = place.reshape(block.shape).T
        alike[start : start + size] = np.einsum("ij,ij->i", unit[first], unit[second])
    return alike


def _tightened(count: int, pairs: np.ndarray, alike: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return which pairs are links: bool M. Where most of a class is alike, only its closest pairs are."""
    kept = np.ones(len(pairs), dtype=bool)
    allowed = np.maximum(ALWAYS_FINE, LARGEST * np.bincount(labels))
    for limit in TIGHTER[1:]:
        _, component = _components(count, pairs[kept])
        members, times = np.unique(np.stack([component, labels]), axis=1, return_counts=True)
        crowded = np.unique(members[0][times > allowed[members[1]]])
        kept &= ~(np.isin(component[pairs[:, 0]], crowded) & (alike < limit))
    return kept


def _between_splits(links: np.ndarray, splits: np.ndarray) -> np.ndarray:
    """Return which new images connect former images of two splits, and cannot be in either: bool N."""
    left_out = np.zeros(len(splits), dtype=bool)
    # What connects former images alone is of before, and no new image can mend it.
    links = links[(splits[links] == NEW).any(1)]
    while True:
        open_links = links[~left_out[links].any(1)]
        _, component = _components(len(splits), open_links)
        known = splits != NEW
        seen = np.unique(np.stack([component[known], splits[known]]), axis=1)
        torn, times = np.unique(seen[0], return_counts=True)
        torn = torn[times > 1]
        # The links between a new and a former image, in groups that straddle.
        mixed = open_links[(splits[open_links] == NEW).sum(1) == 1]
        mixed = mixed[np.isin(component[mixed[:, 0]], torn)]
        if not len(mixed):
            return left_out
        is_new = splits[mixed] == NEW
        new, old = mixed[is_new], mixed[~is_new]
        touching = np.unique(np.stack([new, splits[old]]), axis=1)
        who, sides_of = np.unique(touching[0], return_counts=True)
        if (sides_of > 1).any():
            left_out[who[sides_of > 1]] = True
            continue
        # A chain of new images: those on the side of the fewer are left out.
        for group in torn:
            inside = component[touching[0]] == group
            sides, sizes = np.unique(touching[1][inside], return_counts=True)
            if len(sides) > 1:
                left_out[touching[0][inside & (touching[1] != sides[np.argmax(sizes)])]] = True


def _components(count: int, links: np.ndarray) -> tuple[int, np.ndarray]:
    graph = coo_matrix((np.ones(len(links), dtype=np.int8), (links[:, 0], links[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)


def _names(component: np.ndarray, sha256: np.ndarray, keys: np.ndarray, former: np.ndarray) -> np.ndarray:
    """Return the name of each image's group: a former one, else the user's, else the start of a digest. str N."""
    own = np.where(keys != "", keys, [digest[:16] for digest in sha256])
    rank = np.where(former != "", 0, np.where(keys != "", 1, 2))
    best = np.where(former != "", former, own)
    order = np.lexsort((best, rank, component))
    groups, first = np.unique(component[order], return_index=True)
    name_of = np.empty(len(groups), dtype=object)
    name_of[groups] = best[order][first]
    # A former image keeps its group, even where a new image now connects it with another group of the same split.
    return np.where(former != "", former, name_of[component])
