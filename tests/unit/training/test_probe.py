"""The linear probe: as good as scikit-learn on the same features, resumable, the same on several workers."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from raycls.config import Config, override
from raycls.data.packed import PackedDataset
from raycls.errors import ConfigError
from raycls.models import checkpoint
from raycls.training.loop import fit, start
from raycls.training.presets import preset
from raycls.training.probe import Probe, fitted
from raycls.training.setup import check
from raycls.training.snapshot import Snapshot
from raycls.training.workers import Workers


@pytest.fixture
def config(digits: PackedDataset) -> Config:
    """Of a cnn, whose random features already tell digits apart."""
    return override(preset("probe", digits.info, "cnn"), ["batch_size=64", "training.precision=fp32"])


def test_it_is_as_good_as_scikit_learn_on_the_same_features() -> None:
    random = np.random.default_rng(0)
    centres = random.normal(size=(5, 40)) * 0.7
    labels = random.integers(0, 5, 1500)
    features = (centres[labels] + random.normal(size=(1500, 40))) * random.uniform(0.1, 10, 40) + 3
    parts = [torch.as_tensor(features[rows], dtype=torch.float32) for rows in (slice(500), slice(500, 800))]
    known = [torch.as_tensor(labels[rows]) for rows in (slice(500), slice(500, 800))]
    weight, bias = fitted(parts[0], known[0], parts[1], known[1], 5)
    test, right = torch.as_tensor(features[800:], dtype=torch.float32), labels[800:]
    ours = ((test @ weight.T + bias).argmax(1).numpy() == right).mean()
    peers = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000)).fit(
            features[:500], labels[:500]
        )
        for c in (0.001, 0.01, 0.1, 1, 10)
    ]
    best = max(peers, key=lambda peer: peer.score(features[500:800], labels[500:800]))
    assert ours > best.score(features[800:], right) - 0.01
    assert ours > 0.5


def test_the_head_alone_learns_and_a_resumed_run_has_nothing_left(
    digits: PackedDataset, config: Config, tmp_path: Path
) -> None:
    found: list[tuple[dict[str, float], Snapshot]] = []
    steps: list[tuple[int, int]] = []
    before = start(config, digits)
    assert isinstance(before, Probe)
    body = {name: value.clone() for name, value in before.kept.state_dict().items()}
    network = fit(
        config,
        digits,
        on_epoch=lambda metrics, snapshot: found.append((metrics, snapshot)),
        on_step=lambda done, total: steps.append((done, total)),
    )
    ((metrics, snapshot),) = found
    assert metrics["val_accuracy"] > 0.85
    assert steps[-1][0] == steps[-1][1]
    for name, value in network.state_dict().items():
        assert torch.equal(value, body[name]) != name.startswith("head."), name
    snapshot.save(tmp_path)
    again, card = checkpoint.load(tmp_path)
    assert card.metrics == metrics
    resumed = start(config, digits, resume=tmp_path)
    assert list(resumed.epochs()) == []
    assert torch.equal(resumed.kept.head.weight, again.head.weight)


def test_a_small_class_counts_as_much_where_classes_are_balanced() -> None:
    """Two classes that overlap, one with a twentieth of the images: unweighted, almost all are said to be the other."""
    random = torch.Generator().manual_seed(0)
    labels = (torch.rand(4000, generator=random) < 0.05).long()
    features = torch.randn(4000, 8, generator=random) + 0.4 * labels[:, None]
    parts = features[:2000], labels[:2000], features[2000:3000], labels[2000:3000]
    weights = 1000 / labels[:2000].bincount().float()

    def recall(of_class: torch.Tensor | None) -> float:
        weight, bias = fitted(*parts, classes=2, class_weights=of_class)
        small = labels[3000:] == 1
        return (features[3000:][small] @ weight.T + bias).argmax(1).float().mean().item()

    assert recall(None) < 0.2
    assert recall(weights) > 0.6


@dataclass
class _Shared:
    """Two workers in two threads, whose tensors are averaged."""

    barrier: threading.Barrier = field(default_factory=lambda: threading.Barrier(2))
    given: dict[int, list[torch.Tensor]] = field(default_factory=dict)


def test_two_workers_find_the_same_as_one(digits: PackedDataset, config: Config) -> None:
    shared = _Shared()

    class Pair(Workers):
        def average(self, tensors: list[torch.Tensor]) -> None:
            self._together(tensors, 0.5)

        def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
            pass  # both start in turn, from the same seed

        def complete(self, parts: torch.Tensor, device: torch.device) -> None:
            self._together([parts], 1)

        def _together(self, tensors: list[torch.Tensor], factor: float) -> None:
            shared.given[self.rank] = [tensor.clone() for tensor in tensors]
            shared.barrier.wait(60)
            for tensor, *both in zip(tensors, *shared.given.values(), strict=True):
                tensor.copy_(torch.stack(both).sum(0) * factor)
            shared.barrier.wait(60)

    ((alone, _),) = start(config, digits).epochs()
    found: dict[int, dict[str, float]] = {}

    def work(training: object, rank: int) -> None:
        assert isinstance(training, Probe)
        ((found[rank], _),) = training.epochs()

    pair = [start(config, digits, workers=Pair(rank, 2)) for rank in (0, 1)]
    threads = [threading.Thread(target=work, args=(each, rank)) for rank, each in enumerate(pair)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for rank in (0, 1):
        assert found[rank]["val_loss"] == pytest.approx(alone["val_loss"], rel=0.02)
        assert torch.equal(pair[0].kept.head.weight, pair[rank].kept.head.weight)


def test_a_head_without_a_bias_is_refused(digits: PackedDataset) -> None:
    with pytest.raises(ConfigError, match="fastcnn has no bias"):
        check(preset("probe", digits.info), digits)
