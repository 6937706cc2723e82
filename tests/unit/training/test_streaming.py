"""Batches that threads gather ahead: the same ones, in order, and nothing is left running."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from raycls.config import override
from raycls.data.packed import PackedDataset
from raycls.training.loop import Training, start
from raycls.training.presets import preset
from raycls.training.streaming import THREADS, source_of, streamed

CPU = torch.device("cpu")
IMAGES = torch.arange(1000 * 4 * 4 * 3).remainder(251).byte().view(1000, 4, 4, 3)


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("images")]


def test_every_batch_comes_in_order() -> None:
    batches = torch.randperm(1000).split(64)
    found = list(streamed(source_of(IMAGES), batches, CPU))
    assert len(found) == len(batches)
    for (indices, images), wanted in zip(found, batches, strict=True):
        assert torch.equal(indices, wanted)
        assert torch.equal(images, IMAGES[wanted])
    assert list(streamed(source_of(IMAGES), [], CPU)) == []


def test_only_a_few_batches_are_gathered_ahead_and_a_caller_may_stop() -> None:
    asked = []

    def batches() -> Iterator[torch.Tensor]:
        for number in range(100):
            asked.append(number)
            yield torch.tensor([number])

    stream = streamed(source_of(IMAGES), batches(), CPU)
    next(stream)
    assert asked == list(range(THREADS + 2))
    stream.close()
    for thread in _threads():
        thread.join(timeout=10)
    assert not _threads()


def test_what_a_thread_cannot_read_is_the_callers_error() -> None:
    with pytest.raises(IndexError, match="out of range"):
        list(streamed(source_of(IMAGES), [torch.tensor([1000])], CPU))


@pytest.mark.parametrize("network", ["fastcnn", "probe"])
def test_a_streamed_split_trains_as_one_in_memory(digits: PackedDataset, network: str) -> None:
    config = override(preset("smoke", digits.info), ["epochs=2", "rotate=10", "precision=fp32"])
    if network == "probe":
        config = override(preset("probe", digits.info, "cnn"), ["precision=fp32"])
    trained = []
    for is_streamed in (False, True):
        training = start(config, digits)
        training.train.streamed = training.val.streamed = is_streamed
        figures = [metrics for metrics, _ in training.epochs()]
        trained.append((training.kept.state_dict(), figures[-1]["val_loss"]))
        assert isinstance(training, Training) == (network == "fastcnn")
    (plain, loss), (ahead, other) = trained
    assert loss == other
    for name, weights in plain.items():
        assert torch.equal(weights, ahead[name]), name
