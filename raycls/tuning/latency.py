"""Times the architectures of a study before its first trial.

    costs = latencies(spec, dataset)         # ms of one forward pass, by architecture

An architecture's latency does not depend on its weights. So it is measured once, while nothing else runs. The
measurement uses the server's engines except int8, which needs trained weights, and the fastest engine counts. Between
two passes it decodes an image and pauses, like a replica that answers single requests. Passes without a pause would
look too fast.
"""

from __future__ import annotations

import io
import math
import statistics
import time
from collections import defaultdict

import numpy as np
from PIL import Image

from raycls import registry
from raycls.config import Config, Engine
from raycls.data.packed import PackedDataset
from raycls.data.transforms import read_square
from raycls.data.versions import on_this_node
from raycls.engines import build as engines
from raycls.engines.build import Run
from raycls.engines.choice import THREADS, able
from raycls.engines.predictor import softmax
from raycls.errors import ConfigError
from raycls.models.card import ModelCard, load_card
from raycls.training import setup
from raycls.tuning import space as spaces
from raycls.tuning.spec import StudySpec

ROUNDS, WARM_UP = 30, 5  # passes of each architecture, which take turns
PAUSE_S = 0.004  # before each pass, as between two requests on one connection
MOST = 64  # architectures; each one takes about a second to measure


def latencies(spec: StudySpec, dataset: PackedDataset) -> dict[str, float]:
    """Return the median milliseconds of a forward pass over `spec.latency_batch` images, by architecture.

    Sets the number of threads of this process to that of a replica.
    Raises ConfigError if the space has more than MOST architectures, or a range of widths instead of choices.
    """
    dataset = on_this_node(dataset)
    configs = {spaces.architecture(config): config for config in _architectures(spec)}
    if len(configs) > MOST:
        raise ConfigError(f"the space has {len(configs)} architectures; at most {MOST} are measured")
    parent = load_card(registry.checkpoint(registry.resolve(spec.init))) if spec.init else None
    sides = {name: setup.card_for(config, dataset.info).image_size for name, config in configs.items()}
    count = min(spec.latency_batch, dataset.info.counts["val"])
    encoded = [_png(image) for image in dataset.images("val")[:count]]
    runs = [
        (name, engine, run)
        for name, config in configs.items()
        for engine, run in _untrained(config, dataset, parent).items()
    ]
    times: dict[tuple[str, Engine], list[float]] = defaultdict(list)
    for turn in range(ROUNDS + WARM_UP):
        for name, engine, run in runs:
            time.sleep(PAUSE_S)
            images = np.stack([read_square(data, sides[name]) for data in encoded])
            started = time.perf_counter()
            softmax(run(images)[0])
            if turn >= WARM_UP:
                times[name, engine].append(1000 * (time.perf_counter() - started))
    fastest: dict[str, float] = {}
    for (name, _), measured in times.items():
        fastest[name] = min(fastest.get(name, math.inf), statistics.median(measured))
    return fastest


def _architectures(spec: StudySpec) -> list[Config]:
    of_latency = ("network.name", "network.widths", "network.mirror", "network.image_size")
    searched = {path: domain for path, domain in spec.space.items() if path in of_latency}
    if any(domain.choices is None for domain in searched.values()):
        raise ConfigError("what latency depends on takes choices: network.widths, network.image_size")
    return (
        [spaces.configured(spec.config, values) for values in spaces.grid(searched)]
        if searched
        else [spec.config]
    )


def _untrained(config: Config, dataset: PackedDataset, parent: ModelCard | None) -> dict[Engine, Run]:
    """Return the network with random weights, by each engine that can run it here. parent: of a pruned network."""
    device = engines.best_device()
    card = setup.card_for(config, dataset.info, parent)
    network = card.build().eval()
    return able(
        lambda engine: engines.build(engine, network, card, device, THREADS), engines.candidates(device)
    )


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()
