"""The reference of a model version: what is usual, measured on the split `val` when the version is registered.

    reference = make(probabilities, embeddings, images, sizes)
    Path("drift.json").write_text(reference.as_json())         # about ten kB
    Reference.from_json(Path("drift.json").read_text())

Every model version has its own reference, because class shares, confidence and embeddings depend on the network. It
holds sums and bins and no image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raycls.data.transforms import at_side
from raycls.drift.features import (
    PICTURE_FEATURES,
    FourierFeatures,
    measure,
    sample_rows,
    side_lengths,
)
from raycls.errors import CheckpointError

if TYPE_CHECKING:
    from raycls.data.packed import PackedDataset

BINS = 10  # that hold equal shares of the reference
MOST = 10_000  # images of the split that are measured
CHUNK = 500
FORMAT = 1


class Bins(BaseModel):
    """A feature's distribution: counts[i] images have edges[i-1] < value <= edges[i], in float32."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: np.ndarray) -> Bins:
        """Return bins with equal shares of the values (float32 N), and an empty one below and above all of them."""
        inner = np.quantile(values, np.linspace(0, 1, BINS + 1)[1:-1], method="lower")
        below = np.nextafter(values.min(), np.float32(-np.inf))
        edges = np.unique(np.array([below, *inner, values.max()], np.float32))
        return cls(edges=tuple(edges.tolist()), counts=tuple(count(values, edges).tolist()))


class Reference(BaseModel):
    """What is usual for a model version.

    A feature that was not known for every image is missing in `features`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(FORMAT, description="of this document")
    images: int = Field(description="how many were measured")
    classes: tuple[int, ...] = Field(description="images by predicted class, in the order of the card")
    features: dict[str, Bins] = Field(description="confidence, brightness, contrast, sharpness and size")
    dimensions: int = Field(description="of an embedding")
    bandwidth: float = Field(description="of the kernel, in units of the embedding")
    mean: tuple[float, ...] = Field(description="of the Fourier features of the embeddings")
    powers: tuple[float, float, float] = Field(
        description="traces of the covariance of the Fourier features, of its square and of its cube"
    )

    @property
    def fourier(self) -> FourierFeatures:
        return FourierFeatures(self.dimensions, self.bandwidth)

    def as_json(self) -> str:
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str | bytes) -> Reference:
        """Return the reference in a document. Raises CheckpointError if it is damaged, or of a newer format."""
        try:
            found = cls.model_validate_json(text)
        except ValidationError as error:
            raise CheckpointError(
                f"the reference for drift is damaged: {str(error).splitlines()[0]}. Register the version again"
            ) from None
        if found.format > FORMAT:
            raise CheckpointError(
                f"the reference for drift has format {found.format}, which a newer raycls wrote. Update raycls"
            )
        return found


def count(values: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Return int64 len(edges)+1: the number of values (float32 N) in each bin."""
    return np.bincount(np.searchsorted(edges, values), minlength=len(edges) + 1)


def make(
    probabilities: np.ndarray, embeddings: np.ndarray, images: np.ndarray, sizes: np.ndarray | None
) -> Reference:
    """Return the reference for one set of images.

    probabilities: float32 N×C. embeddings: float32 N×D. images: uint8 N×S×S×3, also memory-mapped. sizes: int N×2,
    width and height of the images before they became squares, or None where nobody knows.
    """
    measured = [measure(sample_rows(images[i : i + CHUNK])) for i in range(0, len(images), CHUNK)]
    values = dict(zip(PICTURE_FEATURES, np.concatenate(measured, axis=1), strict=True))
    values["confidence"] = probabilities.max(1)
    if sizes is not None:
        values["size"] = side_lengths(sizes)
    fourier = FourierFeatures.fitted(embeddings)
    features = fourier(embeddings)
    covariance = np.cov(features, rowvar=False)
    square = covariance @ covariance
    return Reference(
        images=len(images),
        classes=tuple(np.bincount(probabilities.argmax(1), minlength=probabilities.shape[1]).tolist()),
        features={name: Bins.of(each) for name, each in values.items()},
        dimensions=fourier.dimensions,
        bandwidth=fourier.bandwidth,
        mean=tuple(features.mean(0, dtype=float).tolist()),
        powers=(float(covariance.trace()), float(square.trace()), float((square * covariance).sum())),
    )


def of_split(
    outputs: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    dataset: PackedDataset,
    split: str = "val",
    side: int | None = None,
) -> Reference:
    """Return the reference of a model for a split, from at most 10,000 random images of it.

    outputs: the model, which returns probabilities (float32 N×C) and embeddings (float32 N×D) of uint8 N×S×S×3.
    side: S, pixels; default: the dataset's.
    """
    images, sizes = dataset.images(split), original_sizes(dataset, split)
    chosen = np.sort(np.random.default_rng(0).permutation(len(images))[:MOST])
    drawn = at_side(images[chosen], side or dataset.info.image_size)
    parts = [outputs(drawn[i : i + CHUNK]) for i in range(0, len(drawn), CHUNK)]
    probabilities, embeddings = (np.concatenate(each) for each in zip(*parts, strict=True))
    return make(probabilities, embeddings, drawn, None if sizes is None else sizes[chosen])


def original_sizes(dataset: PackedDataset, split: str) -> np.ndarray | None:
    """Return int64 N×2: width and height of a split's images before resizing, or None if the rows do not tell them."""
    import pyarrow.compute as pc  # a replica imports this module, and must start fast

    from raycls.data.manifest import read_rows

    rows = read_rows(dataset)
    rows = rows.filter(pc.equal(rows["split"], split))
    if not len(rows) or rows["width"].null_count or rows["height"].null_count:
        return None
    return np.stack([rows[side].to_numpy() for side in ("width", "height")], axis=1).astype(np.int64)
