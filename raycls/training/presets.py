"""The presets: complete configurations by name, which a dataset's size fits.

config = preset("fast", open_dataset("cifar10").info)
"""

from __future__ import annotations

import math

from pydantic import BaseModel

from raycls.config import DEFAULTS, AugmentConfig, Config, NetworkConfig, OptimConfig, TrainingConfig
from raycls.data.packed import DatasetInfo
from raycls.errors import ConfigError


class _Preset(BaseModel):
    """The widths of each network, and the epochs for a training split of CIFAR-10's size (45,000 images).

    tuned_epochs: from public weights, which need few, with 1,000 training images or more. crop: of photographs then.
    """

    mlp: tuple[int, ...]
    cnn: tuple[int, ...]
    fastcnn: tuple[int, ...]
    epochs: int
    tuned_epochs: int = 1
    crop: float = 0.0
    reduced_share: float = 0.0
    cutout: float = 0.0  # side of the blanked square, as a share of the image's


# benchmarks/results/training.md has the accuracy of the fastcnn with each preset on CIFAR-10's test split.
_PRESETS = {
    "smoke": _Preset(mlp=(64,), cnn=(8, 16), fastcnn=(8, 16, 16), epochs=1),
    "probe": _Preset(mlp=(512, 256), cnn=(32, 64, 128), fastcnn=(48, 128, 176), epochs=1),
    "quick": _Preset(
        mlp=(512, 256),
        cnn=(32, 64, 128),
        fastcnn=(32, 64, 144),
        epochs=5,
        reduced_share=0.6,
        tuned_epochs=3,
        crop=0.5,
    ),
    "fast": _Preset(
        mlp=(512, 256),
        cnn=(32, 64, 128),
        fastcnn=(48, 128, 176),
        epochs=6,
        reduced_share=0.67,
        tuned_epochs=5,
        crop=0.5,
    ),
    "strong": _Preset(
        mlp=(1024, 512),
        cnn=(64, 128, 256),
        fastcnn=(48, 224, 320),
        epochs=13,
        reduced_share=0.62,
        tuned_epochs=10,
        crop=0.35,
    ),
    "accurate": _Preset(
        mlp=(1024, 512),
        cnn=(64, 128, 256),
        fastcnn=(48, 256, 352),
        epochs=18,
        reduced_share=0.25,
        tuned_epochs=20,
        crop=0.35,
    ),
}
PRESETS = tuple(_PRESETS)
_BATCH_PIXELS = 2_000 * 32 * 32  # of a batch on CPUs
# AdamW needs more steps than Muon for the same accuracy, so its batches are smaller.
_LARGEST_BATCH = {"muon": 1000, "adamw": 125}
_FULL_SPLIT = 45_000  # training images of CIFAR-10, for which the presets were made
_TUNED_SPLIT = 1_000  # training images from which on fine-tuning needs no further epochs
_TUNED_REDUCED = 0.6  # share of the epochs with smaller images, where the network takes them
PHOTOGRAPH = 96  # pixels: smaller images show one thing, cut to its edges


def preset(name: str, info: DatasetInfo, network: str | None = None, gpu_memory: int | None = None) -> Config:
    """Return the complete configuration `name` for a dataset. Its size decides batch size and epochs.

    gpu_memory: bytes that are free on the GPU of a worker, which limit the batch; None: it trains on CPUs.

    smoke takes seconds and shows that everything works. probe trains the head alone, of a network whose weights are
    trained. quick, fast, strong and accurate take longer, in this order,
    and reach a higher accuracy. Raises ConfigError for an unknown name.
    """
    from raycls.models.networks import check_name, takes_any_size

    if name not in _PRESETS:
        raise ConfigError(f"unknown preset {name!r}; the presets are: {', '.join(PRESETS)}")
    network = network or "fastcnn"
    check_name(network)
    chosen = _PRESETS[name]
    images = info.counts["train"]
    optimizer = "muon" if network == "fastcnn" else "adamw"
    most = _LARGEST_BATCH[optimizer]
    # A small dataset needs small batches, for about twenty or more steps an epoch, and up to five times the epochs.
    # Large images need small batches too, as the memory for a batch's activations grows with its pixels.
    widths = getattr(chosen, network, ())
    if gpu_memory is None:
        fitting = max(16, _BATCH_PIXELS // info.image_size**2)
    else:
        fitting = _fitting(network, widths, info, gpu_memory)
    batch_size = min(most, max(16, images // 20), images, fitting)
    passes = min(5.0, max(1.0, math.sqrt(_FULL_SPLIT / images)))
    reducible = takes_any_size(network) and info.image_size >= 32
    return Config(
        network=NetworkConfig(name=network, widths=widths),
        optim=OptimConfig.model_validate({"name": optimizer, **DEFAULTS[optimizer]}),
        augment=AugmentConfig(
            translate=info.image_size // 16,
            flip=info.mirrorable,
            cutout=round(chosen.cutout * info.image_size),
        ),
        training=TrainingConfig(
            epochs=1 if chosen.epochs == 1 else round(chosen.epochs * passes),
            probe=name == "probe",
            batch_size=batch_size,
            reduced_share=chosen.reduced_share if reducible else 0.0,
        ),
    )


def _fitting(network: str, widths: tuple[int, ...], info: DatasetInfo, gpu_memory: int) -> int:
    """Return how many images a step on a GPU can have: a power of two, so that what else is there changes little."""
    from raycls.models.networks import build
    from raycls.training.memory import largest_batch

    arguments = {"widths": widths} if widths else {}
    built = build(network, num_classes=len(info.classes), image_size=info.image_size, **arguments)
    return 1 << (largest_batch(built, info.image_size, gpu_memory).bit_length() - 1)


def tuned(name: str, info: DatasetInfo, network: str) -> dict[str, float]:
    """Return what the preset `name` changes, by the setting's path, where the weights are public ones.

    These know what pictures are made of: a few epochs are enough, and in most of them half of the pixels. Photographs
    are seen in random crops, as there is more in them than one thing at one size.
    """
    from raycls.models.networks import takes_any_size

    chosen, images = _PRESETS[name], info.counts["train"]
    passes = min(3.0, max(1.0, math.sqrt(_TUNED_SPLIT / images)))
    reducible = takes_any_size(network) and info.image_size >= PHOTOGRAPH
    found = {
        "training.epochs": 1 if chosen.tuned_epochs == 1 else round(chosen.tuned_epochs * passes),
        "training.reduced_share": _TUNED_REDUCED if reducible else 0.0,
    }
    if chosen.crop and info.image_size >= PHOTOGRAPH:
        found |= {"augment.crop": chosen.crop, "augment.translate": 0}
    return found
