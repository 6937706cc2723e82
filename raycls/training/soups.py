"""One network from the averaged weights of several: a greedy model soup, as fast as one of them.

    result = soup(["pets/3", "pets/5", "pets/7"])      # the next version of pets, or None: no mixture is better

Wortsman et al., Model soups (arXiv:2203.05482): the versions are tried in the order of their accuracy on `val`, and
each stays in the mixture if that does not lower the mixture's accuracy there. It works where all were fine-tuned from
the same trained weights. Networks that began with random weights of their own lie too far apart, and the greedy rule
then keeps the best one alone. The statistics of batch normalisation belong to one network: a mixture's are measured.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.optim.swa_utils import update_bn

from raycls import progress, registry, tracking
from raycls.data.packed import PackedDataset
from raycls.data.resized import at_size
from raycls.data.tensors import normalize
from raycls.data.versions import open_by_fingerprint
from raycls.engines.build import best_device
from raycls.errors import ConfigError
from raycls.models import checkpoint
from raycls.models.base import Network
from raycls.models.card import ENSEMBLE, ModelCard, provenance
from raycls.models.forward import compute_dtype
from raycls.registry import ModelVersion
from raycls.tracking.resumable import SOUP
from raycls.training.encoded_split import open_split
from raycls.training.ensembles import versions_of
from raycls.training.filing import TrainingResult, filed
from raycls.training.validation import EVAL_PIXELS, validate
from raycls.training.workers import Workers

MOST_IMAGES = 10_000  # of the training split, from which the statistics of batch normalisation are measured
SHAPE = "network", "arguments", "classes", "image_size", "mean", "std", "resize", "dataset"


class Member(NamedTuple):
    """A network that may become a part of the mixture, its name, and its accuracy on val alone."""

    name: str
    network: Network
    accuracy: float


def soup(references: Sequence[str], model: str | None = None) -> TrainingResult | None:
    """Mix versions by the greedy rule, and register the mixture as the next version of `model`, by default the first's.

    Return None where no mixture is as good as the best of them alone. Raises UsageError, UnknownModelError, and
    ConfigError for versions that cannot be mixed.
    """
    versions = versions_of(references, "a soup")
    model = registry.check_name(model or versions[0].name)
    loaded = [checkpoint.load(registry.checkpoint(version)) for version in versions]
    check([card for _, card in loaded], versions)
    dataset = open_by_fingerprint(*max((card.learned_from for _, card in loaded), key=lambda each: each[2]))
    _say_starts(versions)
    kitchen = Kitchen(dataset, loaded[0][1])
    members = [
        Member(version.reference, network, kitchen.accuracy(network))
        for version, (network, _) in zip(versions, loaded, strict=True)
    ]
    mixture, accuracy, chosen = kitchen.greedy(members)
    best = chosen[0]
    if len(chosen) == 1:
        progress.say(
            f"no mixture is as good on val as {best.name} alone ({best.accuracy:.4f}): none is registered"
        )
        return None
    progress.say(
        f"{' + '.join(each.name for each in chosen)}: val_accuracy {accuracy:.4f}, the best alone "
        f"has {best.accuracy:.4f}"
    )
    of_name = {version.reference: version for version in versions}
    mixed = [of_name[each.name] for each in chosen]
    lineage = {SOUP: ", ".join(f"{each.reference} sha256:{each.sha256}" for each in mixed)}
    card = loaded[versions.index(mixed[0])][1].model_copy(
        update={
            "metrics": {},
            "temperature": 1.0,
            "dataset_version": dataset.info.version,
            "dataset_fingerprint": dataset.info.fingerprint,
            **provenance(),
        }
    )
    name = f"{dataset.info.name}-soup-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:4]}"
    tags = {
        "kind": SOUP,
        "dataset_version": str(dataset.info.version),
        "dataset_fingerprint": dataset.info.fingerprint,
        **lineage,
    }
    with tempfile.TemporaryDirectory() as folder, tracking.run(dataset.info.name, name, tags=tags) as run:
        directory = Path(folder) / tracking.CHECKPOINT
        checkpoint.save(directory, mixture, card)
        run.log_params({"members": ", ".join(each.name for each in chosen)})
        run.log_dataset(dataset.info)
        return filed(directory, dataset, run, model, lineage, more={"soup_members": len(chosen)})


def check(cards: Sequence[ModelCard], versions: Sequence[ModelVersion]) -> None:
    """Raise ConfigError unless the versions have networks of one shape, and none of them learned `val`."""
    first = cards[0]
    for card, version in zip(cards, versions, strict=True):
        if card.network == ENSEMBLE:
            raise ConfigError(f"{version.reference} is an ensemble, whose weights are several networks'")
        if "val" in card.learned_splits:
            raise ConfigError(
                f"{version.reference} learned val, on which the members of a soup are chosen: mix versions of before a "
                "refit"
            )
        for field in SHAPE:
            own, other = (_plain(getattr(each, field)) for each in (card, first))
            if own != other:
                raise ConfigError(
                    f"weights are mixed between networks of one shape, and {version.reference} has another {field} "
                    f"than {versions[0].reference}: {own}, not {other}; `raycls ensemble` takes them"
                )


def _plain(value: object) -> object:
    """Return an argument without what changes no weight."""
    return (
        {key: each for key, each in value.items() if key != "dropout"} if isinstance(value, dict) else value
    )


def _say_starts(versions: Sequence[ModelVersion]) -> None:
    """Say where the versions did not begin with the same trained weights."""
    starts = {version.tags.get("init") or version.tags.get("weights") for version in versions}
    if starts == {None}:
        progress.say(
            "these versions began with random weights, which rarely mix: expect that the best one stays alone"
        )
    elif len(starts) > 1:
        progress.say("these versions began with different weights, which rarely mix")


class Kitchen:
    """Mixes networks of one shape, and measures them on the split `val` of a dataset, on the best device."""

    def __init__(self, dataset: PackedDataset, card: ModelCard):
        self.device, self.card = torch.device(best_device()), card
        self.dtype = compute_dtype("auto", self.device)
        seen = at_size(dataset, card.image_size)
        self.train, self.val = (open_split(seen, split, self.device) for split in ("train", "val"))

    def accuracy(self, network: Network) -> float:
        """Return the accuracy on val, 0..1."""
        network.to(self.device)
        return validate(network, self.val, self.card, self.dtype, Workers())["val_accuracy"]

    def greedy(self, members: Sequence[Member]) -> tuple[Network, float, list[Member]]:
        """Return the mixture, its accuracy, and its members, of which the first one is the best alone."""
        members = sorted(members, key=lambda member: -member.accuracy)
        kept, chosen, best = members[0].network, [members[0]], members[0].accuracy
        with progress.bar("mixing", total=len(members) - 1) as bar:
            for member in members[1:]:
                tried = self.mixed([*(each.network for each in chosen), member.network])
                accuracy = self.accuracy(tried)
                stays = accuracy >= best
                progress.say(
                    f"  with {member.name} ({member.accuracy:.4f} alone): {accuracy:.4f}, "
                    f"{'it stays' if stays else 'it is left out'}"
                )
                if stays:
                    kept, best = tried, accuracy
                    chosen.append(member)
                bar.advance()
        return kept, best, chosen

    def mixed(self, networks: Sequence[Network]) -> Network:
        """Return a network with the mean of the weights.

        Batch norms get statistics of their own, unless all networks have the same, as after training that kept them.
        """
        states = [network.state_dict() for network in networks]
        mean = {
            name: torch.stack([state[name] for state in states]).mean(0)
            if value.is_floating_point()
            else value
            for name, value in states[0].items()
        }
        network = self.card.build().to(self.device)
        network.load_state_dict(mean)
        buffers = [dict(each.named_buffers()) for each in networks]
        if any(not torch.equal(each[name], buffers[0][name]) for each in buffers for name in each):
            update_bn(self._images(), network)
        return network.eval()

    def _images(self) -> Iterator[Tensor]:
        chosen = self.train.chosen[:MOST_IMAGES].sort().values
        batches = chosen.split(max(2, EVAL_PIXELS // self.card.image_size**2))
        for batch in self.train.ahead(batches):
            yield normalize(batch.pixels, self.card.mean, self.card.std)
