"""One frozen, typed configuration tree for a training run, the presets that fill it, and overrides from text.

    config = preset("fast", manifest)
    config = override(config, ["lr=0.2", "training.epochs=8"])

A field is validated when the tree is built; the whole tree is printed at the start of a run and logged with it.
Data only: nothing here trains, serves or touches a file.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raycls.errors import ConfigError

if TYPE_CHECKING:
    from raycls.data.packed import Manifest


Engine = Literal["reference", "torch", "openvino", "cuda-graphs"]  # see raycls/engines/build.py
# Learning rates that an optimiser begins with where it alone is asked for: another's may be far off.
_RATES = {"muon": 0.24, "sgd": 0.1, "adam": 1e-3, "adamw": 1e-3}


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NetworkConfig(_Section):
    """What is trained: see raycls/models/networks.py."""

    name: str = Field("fastcnn", description="a name in raycls.models.networks")
    widths: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(
        (64, 128, 128), description="channels (or units) per stage; empty: the network's own"
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="probability of dropping a feature before the head")

    def arguments(self) -> dict[str, Any]:
        """What `raycls.models.networks.build` takes beside the name and the dataset's shape."""
        widths = {"widths": self.widths} if self.widths else {}
        return {**widths, "dropout": self.dropout}


class OptimConfig(_Section):
    """How the weights move: see raycls/training/optim.py."""

    name: Literal["muon", "sgd", "adam", "adamw"] = Field(
        "muon", description="muon: Muon for filters, SGD for the rest; the others are one optimiser for all"
    )
    lr: float = Field(
        _RATES["muon"],
        gt=0,
        le=10,
        description="peak learning rate, of the filters where name is muon; where none is given, "
        + ", ".join(f"{rate:g} for {name}" for name, rate in _RATES.items()),
    )
    weight_decay: float = Field(
        0.015, ge=0, le=1, description="of matrices and filters under sgd, adam and adamw; muon needs none"
    )
    schedule: Literal["linear", "cosine"] = Field("linear", description="how every rate falls to 0")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of all steps in which the rates rise from 0")
    clip_norm: float = Field(0.0, ge=0, description="largest norm of the whole gradient; 0: not clipped")
    label_smoothing: float = Field(0.2, ge=0, lt=1, description="share of the target spread over all classes")
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay per step of the averaged weights that are kept; 0: the last weights",
    )


class AugmentConfig(_Section):
    """The random views of a training image: see raycls/data/augment.py. 0 (or false) turns each off."""

    translate: int = Field(2, ge=0, le=64, description="largest shift, pixels each way")
    flip: bool = Field(True, description="mirror each image every other epoch, after a random start")
    rotate: float = Field(0.0, ge=0, le=180, description="largest rotation, degrees each way")
    zoom: float = Field(0.0, ge=0, lt=1, description="largest change of size, as a share, both ways")
    brightness: float = Field(
        0.0, ge=0, le=1, description="largest shift, as a share of the range, both ways"
    )
    contrast: float = Field(0.0, ge=0, lt=1, description="largest change of contrast, as a share, both ways")
    cutout: int = Field(0, ge=0, le=512, description="side of the square that is blanked, pixels")
    mixup: float = Field(0.0, ge=0, le=10, description="alpha of the Beta distribution of MixUp's shares")
    cutmix: float = Field(0.0, ge=0, le=10, description="alpha of the Beta distribution of CutMix's areas")


class TrainingConfig(_Section):
    """How long, how much at a time, and from which seed."""

    epochs: int = Field(4, ge=1, le=10_000, description="passes over the training split")
    batch_size: int = Field(1000, ge=2, le=65_536, description="images per step over all workers together")
    seed: int = Field(0, ge=0, lt=2**31, description="of weights, order and augmentation")
    train_fraction: float = Field(
        1.0, gt=0, le=1, description="share of the training split that is used: less for quick studies"
    )
    reduced_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="share of the epochs, the first ones, that see images at 11/16 of their side",
    )
    freeze_after: float = Field(
        1.0, ge=0, le=1, description="share of the steps after which a fastcnn's first layers rest; 1: never"
    )
    frozen_epochs: int = Field(0, ge=0, description="first epochs in which the head alone learns")
    balance: Literal["none", "weights", "sampling"] = Field(
        "none",
        description="for unbalanced classes: weigh the loss by class, or draw every class equally often",
    )
    patience: int = Field(
        0, ge=0, description="stop after that many epochs without a higher validation accuracy; 0: never"
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto", description="auto: bf16 where the device computes it natively, else fp32"
    )

    @property
    def chosen_by(self) -> str:
        """The metric by which the best epoch is kept; where classes are balanced, each counts as much as another."""
        return "val_accuracy" if self.balance == "none" else "val_macro_accuracy"


class Config(_Section):
    """Everything that determines a training run, except the data and the number of workers."""

    network: NetworkConfig = NetworkConfig()
    optim: OptimConfig = OptimConfig()
    augment: AugmentConfig = AugmentConfig()
    training: TrainingConfig = TrainingConfig()

    def flat(self) -> dict[str, Any]:
        """`{"network.name": …, "optim.lr": …}`: one value per leaf, as MLflow logs it."""
        return {f"{s}.{f}": value for s, section in self for f, value in section.model_dump().items()}


class ServingConfig(_Section):
    """The arguments of the application in serve_config.yaml: see raycls/serving/app.py."""

    model: str | None = Field(
        None, description="NAME, NAME@ALIAS or NAME/VERSION; none: the champion that was promoted last"
    )
    max_batch_size: int = Field(64, ge=1, le=4096, description="images classified at a time")
    threads: int = Field(1, ge=1, le=256, description="CPU threads of one replica's forward pass")
    engine: Engine | Literal["auto"] = Field(
        "auto",
        description="what computes the forward pass; auto: what was fastest when the version was promoted",
    )
    max_body_bytes: int = Field(10 * 2**20, ge=1024, description="largest request body, bytes")
    body_timeout_s: float = Field(
        20, gt=0, description="how long a request's body may take to arrive, seconds"
    )
    max_pixels: int = Field(
        50_000_000,
        ge=1,
        description="largest image, width × height; and the most of all images of one request together",
    )
    max_images: int = Field(64, ge=1, description="most images in one request")
    max_pending: int = Field(
        100, ge=1, description="requests that one replica holds before it answers 429 with Retry-After"
    )
    token_sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="digest of the bearer token that /predict and /metrics ask for; none: anyone may ask",
    )
    no_auth: bool = Field(
        False, description="ask nobody for a token, even where other machines reach the server"
    )
    access_log: float = Field(
        0,
        ge=0,
        le=1,
        description="share of the requests that the replica's log tells of, each a line of JSON",
    )
    simulate_forward_ms: float = Field(
        0, ge=0, description="sleep that long for each image of a forward pass: for scaling tests only"
    )


_AnySection = TypeVar("_AnySection", bound=BaseModel)


class _Preset(BaseModel):
    """Widths by network, and the passes over a training split of CIFAR-10's size (45,000 images)."""

    mlp: tuple[int, ...]
    cnn: tuple[int, ...]
    fastcnn: tuple[int, ...]
    epochs: int
    reduced_share: float = 0.0
    cutout: float = 0.0  # side of the blanked square, as a share of the image's


# What the fastcnn reaches with each on CIFAR-10's test split is in benchmarks/results/training.md.
_PRESETS = {
    "smoke": _Preset(mlp=(64,), cnn=(8, 16), fastcnn=(8, 16, 16), epochs=1),
    "quick": _Preset(mlp=(512, 256), cnn=(32, 64, 128), fastcnn=(32, 64, 144), epochs=5, reduced_share=0.6),
    "fast": _Preset(mlp=(512, 256), cnn=(32, 64, 128), fastcnn=(48, 128, 176), epochs=6, reduced_share=0.67),
    "strong": _Preset(
        mlp=(1024, 512), cnn=(64, 128, 256), fastcnn=(48, 224, 320), epochs=13, reduced_share=0.62
    ),
    "accurate": _Preset(
        mlp=(1024, 512), cnn=(64, 128, 256), fastcnn=(48, 256, 352), epochs=18, reduced_share=0.25
    ),
}
PRESETS = tuple(_PRESETS)
_BATCH_PIXELS = 2_000 * 32 * 32
# AdamW needs more steps: a cnn reaches 68% on CIFAR-10 in 68 s with batches of 125, and 58% in 59 s with 1,000.
_LARGEST_BATCH = {"muon": 1000, "adamw": 125}
_FULL_SPLIT = 45_000  # training images of CIFAR-10, on which the presets were made


def preset(name: str, manifest: Manifest, network: str | None = None) -> Config:
    """The complete configuration called `name` for a dataset: its size decides batch size and epochs.

    smoke takes seconds, to see that everything works; quick, fast, strong and accurate each take longer than the
    one before.
    Raises ConfigError for an unknown name.
    """
    from raycls.models.networks import NETWORKS

    if name not in _PRESETS:
        raise ConfigError(f"unknown preset {name!r}; the presets are: {', '.join(PRESETS)}")
    network = network or "fastcnn"
    if network not in NETWORKS:
        raise ConfigError(f"unknown network {network!r}; the networks are: {', '.join(NETWORKS)}")
    chosen = _PRESETS[name]
    images = manifest.counts["train"]
    muon = network == "fastcnn"
    most = _LARGEST_BATCH["muon" if muon else "adamw"]
    # Smaller folders take smaller batches, twenty or more an epoch, and up to five times as many passes; larger images
    # take smaller ones too, as a batch's activations take memory by its pixels.
    batch_size = min(most, max(16, images // 20), images, max(16, _BATCH_PIXELS // manifest.image_size**2))
    passes = min(5.0, max(1.0, math.sqrt(_FULL_SPLIT / images)))
    reducible = network != "mlp" and manifest.image_size >= 32
    return Config(
        network=NetworkConfig(name=network, widths=getattr(chosen, network, ())),
        optim=OptimConfig() if muon else OptimConfig(name="adamw", lr=_RATES["adamw"], label_smoothing=0.1),
        augment=AugmentConfig(
            translate=manifest.image_size // 16,
            flip=manifest.mirrorable,
            cutout=round(chosen.cutout * manifest.image_size),
        ),
        training=TrainingConfig(
            epochs=chosen.epochs if name == "smoke" else round(chosen.epochs * passes),
            batch_size=batch_size,
            reduced_share=chosen.reduced_share if reducible else 0.0,
        ),
    )


def override(config: Config, assignments: Iterable[str]) -> Config:
    """The configuration with each `key=value` applied and validated.

    A key is a path (`optim.lr`) or a field's own name where only one section has it (`lr`); a value is JSON, or
    else text. Another optimiser comes with a rate of its own, where none is assigned.

    Raises ConfigError that names the key and what it accepts.
    """
    tree, assigned = config.model_dump(), set()
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"{assignment!r} is not key=value, like training.epochs=8")
        assigned.add(path := path_of(config, key))
        section, leaf = path.split(".")
        try:
            tree[section][leaf] = json.loads(text)
        except ValueError:
            tree[section][leaf] = text
    if tree["optim"]["name"] != config.optim.name and "optim.lr" not in assigned:
        tree["optim"]["lr"] = _RATES.get(str(tree["optim"]["name"]), config.optim.lr)
    return validated(Config, tree)


def path_of(config: Config, key: str) -> str:
    """The path that a key means: itself, or that of the only field of this name. Raises ConfigError."""
    paths = list(config.flat())
    found = [path for path in paths if key in (path, path.split(".")[1])]
    if len(found) != 1:
        raise ConfigError(f"unknown setting {key!r}; the settings are: {', '.join(paths)}")
    return found[0]


def validated(section: type[_AnySection], values: dict[str, Any]) -> _AnySection:
    """Build a section; pydantic's list of complaints becomes one ConfigError line."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(complaints(error))) from None


def complaints(error: ValidationError) -> Iterator[str]:
    """What pydantic found wrong, a line each."""
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        yield f"{path}={item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"
