"""Which engine serves a version: chosen and stored before its promotion, and obeyed by every replica.

    version = choose_engine(version, dataset)       # measured on all of `val`; on `gate`, if it learned `val`
    engine_to_serve(version)                        # on this machine

A version is served by an engine only if a promotion measured its accuracy, and it loses no more than the policy allows.
`reference`, which loses nothing, is always allowed. A challenger of an experiment that was never measured runs on the
champion's engine, as the guards compare the two; its own promotion measures it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from raycls import progress, tracking
from raycls.config import Engine
from raycls.engines import openvino_graph
from raycls.engines.build import Device, best_device, running
from raycls.engines.openvino_graph import INT8_FOLDER
from raycls.errors import ConfigError, EngineError, RegistryError
from raycls.models.card import load_card
from raycls.registry.checkpoints import checkpoint
from raycls.registry.model_version import ENGINE, ENGINE_TIMINGS, INT8, ModelVersion
from raycls.registry.policy import PromotionPolicy
from raycls.registry.versions import resolve

# Multiply-accumulates of one image from which on a network is quantized, which takes ten seconds or more. Below, a pass
# takes some 0.1 ms, most of which is the call.
LEAST_MACS = 5_000_000

if TYPE_CHECKING:
    from raycls.data.packed import PackedDataset


def choose_engine(
    version: ModelVersion, dataset: PackedDataset | None, policy: PromotionPolicy = PromotionPolicy()
) -> ModelVersion:
    """Measure the engines on this machine and print the result. Store the choice with the version, and return it.

    dataset: what the version learned from. Without it an earlier choice stays, and else `reference` is chosen. Its
    training images calibrate the int8 graph, which is stored with the version.
    Raises CheckpointError and RegistryError.
    """
    if dataset is None:
        progress.say(f"the engines are not measured: that takes the images of {version.reference}'s dataset")
        return version if ENGINE in version.tags else _tagged(version, {ENGINE: "reference"})
    from raycls.engines.choice import choose  # imports PyTorch, which only a promotion needs
    from raycls.engines.examples import match

    directory = checkpoint(version)
    names = running(best_device())
    if not _gains_by_int8(directory):
        names = tuple(name for name in names if name != "openvino-int8")
    if "openvino-int8" in names:
        try:
            version = _with_int8(version, directory, dataset)
        except (EngineError, RegistryError) as error:
            progress.say(f"engine openvino-int8 is not used: {error}")
            names = tuple(name for name in names if name != "openvino-int8")
    card = load_card(directory)
    # A model that learned val is sure of these images with each engine.
    unseen = match(card, dataset, "val" if card.unseen == "val" else dataset.gate)
    choice = choose(directory, unseen, policy.max_accuracy_loss, names=names)
    progress.say(str(choice))
    return _tagged(version, {ENGINE: choice.engine, ENGINE_TIMINGS: json.dumps(choice.as_json())})


def engine_to_serve(
    version: ModelVersion, setting: Engine | Literal["auto"] = "auto", device: Device | None = None
) -> Engine:
    """Return the engine for this machine: the setting of serve_config.yaml, or for `auto` the version's own.

    If that one does not run here, it is the first allowed one of `openvino` and `torch`, or else `reference`.
    """
    if setting != "auto":
        return setting
    here = running(device or best_device())
    wanted: tuple[Engine, ...] = (version.engine, "openvino", "torch")
    return next((engine for engine in wanted if engine in here and version.allows(engine)), "reference")


def check_engine(version: ModelVersion, directory: Path, setting: Engine | Literal["auto"]) -> None:
    """Raise ConfigError if a setting names an engine that may not serve the version, RegistryError if the int8 graph
    in its checkpoint directory is not the one that was measured."""
    if setting != "auto" and not version.allows(setting):
        timings = {timing["engine"]: timing for timing in version.engine_timings}
        if setting in timings:
            found, exact = timings[setting], timings["reference"]
            reason = (
                f"its accuracy on `{found.get('split', 'val')}` is {found['accuracy']:.4f}, that of reference "
                f"{exact['accuracy']:.4f}, and its confidence differs by {found['mean_difference']:.3f}"
            )
        else:
            reason = f"it was never measured, which `raycls promote {version.name} {version.version}` does"
        raise ConfigError(
            f"engine {setting} may not serve {version.reference}: {reason}. Set engine to auto or reference"
        )
    engine = version.engine if setting == "auto" else setting
    if engine == "openvino-int8" and not _has_int8(version, directory):
        raise RegistryError(
            f"the int8 graph of {version.reference} is not the one that was measured: promote the version again, or "
            "set engine to reference"
        )


def _gains_by_int8(directory: Path) -> bool:
    from raycls.models import checkpoint as checkpoints
    from raycls.models.macs import macs

    network, card = checkpoints.load(directory)
    return macs(network, card.image_size) >= LEAST_MACS


def _has_int8(version: ModelVersion, directory: Path) -> bool:
    return INT8 in version.tags and openvino_graph.digest(directory / INT8_FOLDER) == version.tags[INT8]


def _with_int8(version: ModelVersion, directory: Path, dataset: PackedDataset) -> ModelVersion:
    """Return the version with an int8 graph beside its weights, here and in MLflow. A whole one is not made again."""
    if _has_int8(version, directory):
        return version
    from raycls.engines import openvino_int8
    from raycls.engines.examples import match

    train = match(load_card(directory), dataset, "train")
    images = train.pixels(train.drawn(openvino_int8.CALIBRATION))
    with progress.bar("quantizing to int8"), tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch, INT8_FOLDER)
        openvino_int8.make(directory, images, made)
        found = openvino_graph.digest(made)
        assert found
        tracking.Run(version.run_id).log_directory(made, f"{tracking.CHECKPOINT}/{INT8_FOLDER}")
        if openvino_graph.digest(directory / INT8_FOLDER) != found:  # the directory is a copy of MLflow's
            shutil.copytree(made, directory / INT8_FOLDER, dirs_exist_ok=True)
    return _tagged(version, {INT8: found})


def _tagged(version: ModelVersion, tags: dict[str, str]) -> ModelVersion:
    for tag, value in tags.items():
        tracking.client().set_model_version_tag(version.name, version.version, tag, value)
    return resolve(version.reference)
