"""The configuration of a training run: one frozen, typed tree, and overrides from text.

    config = override(Config(), ["lr=0.2", "training.epochs=8"])

A field is validated when the tree is built. The whole tree is printed at the start of a run and logged with it. This
module only holds data: it does not train, serve or read files. raycls/training/presets.py fills the tree.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raycls.errors import ConfigError

Engine = Literal[
    "reference", "torch", "openvino", "openvino-int8", "cuda-graphs"
]  # see raycls/engines/build.py
Metric = Literal["accuracy", "macro_f1", "macro_recall", "log_loss"]  # see raycls/metrics.py
# Each optimiser's own settings. The rates differ by two orders of magnitude. Adam adds weight decay to the gradient,
# where its scaling undoes it (arXiv:1711.05101), so that it has none. Muon keeps the norm of its filters.
DEFAULTS: dict[str, dict[str, float]] = {
    "muon": {"lr": 0.24, "weight_decay": 0.0, "label_smoothing": 0.2},
    "sgd": {"lr": 0.1, "weight_decay": 5e-4, "label_smoothing": 0.1},
    "adam": {"lr": 1e-3, "weight_decay": 0.0, "label_smoothing": 0.1},
    "adamw": {"lr": 1e-3, "weight_decay": 0.015, "label_smoothing": 0.1},
}
_RATES = {name: values["lr"] for name, values in DEFAULTS.items()}


class Section(BaseModel):
    """A part of a configuration: frozen, checked when it is made, without unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class NetworkConfig(Section):
    """The network: see raycls/models/networks.py."""

    name: str = Field("fastcnn", description="a name in raycls.models.networks")
    widths: tuple[Annotated[int, Field(ge=1, le=65_536)], ...] = Field(
        (64, 128, 128), description="channels (or units) of each stage; empty: the network's default"
    )
    image_size: int | None = Field(
        None,
        ge=8,
        le=4096,
        description="side of the images that the network sees, pixels; they are reduced to it; none: the dataset's",
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="probability of dropping a feature before the head")
    mirror: bool = Field(
        False,
        description="predict the mean of an image and its mirror image, in twice the time; not used while it learns",
    )
    statistics: Literal["dataset", "pretrained"] = Field(
        "dataset",
        description="whose mean and standard deviation images are normalised with: the dataset's, or those that the "
        "network's public weights expect",
    )

    def arguments(self) -> dict[str, Any]:
        """Return the arguments of `raycls.models.networks.build`, without the name and the dataset's shape."""
        widths = {"widths": self.widths} if self.widths else {}
        mirror = {"mirror": True} if self.mirror else {}
        return {**widths, **mirror, "dropout": self.dropout}


class OptimConfig(Section):
    """The optimiser and the loss: see raycls/training/optim.py."""

    name: Literal["muon", "sgd", "adam", "adamw"] = Field(
        "muon", description="muon: Muon for filters, SGD for the rest; the others: one optimiser for all"
    )
    lr: float = Field(
        _RATES["muon"],
        gt=0,
        le=10,
        description="peak learning rate (under muon, of the filters); default: "
        + ", ".join(f"{rate:g} for {name}" for name, rate in _RATES.items()),
    )
    head_lr_factor: float = Field(
        1.0, gt=0, le=100, description="learning rate of the head, as a multiple of its usual one"
    )
    layer_decay: float = Field(
        1.0,
        gt=0,
        le=1,
        description="learning rate of each stage of the network, as a multiple of the next one's; not used by muon",
    )
    weight_decay: float = Field(
        DEFAULTS["muon"]["weight_decay"],
        ge=0,
        le=1,
        description="of matrices and filters under sgd, adam and adamw; muon has none; default: "
        + ", ".join(f"{values['weight_decay']:g} for {name}" for name, values in DEFAULTS.items()),
    )
    schedule: Literal["linear", "cosine"] = Field("linear", description="how every learning rate falls to 0")
    warmup: float = Field(0.0, ge=0, lt=1, description="share of the steps in which learning rates rise")
    clip_norm: float = Field(0.0, ge=0, description="largest norm of the whole gradient; 0: no limit")
    label_smoothing: float = Field(0.2, ge=0, lt=1, description="share of the target spread over all classes")
    ema: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="keep a moving average of the weights with this decay per step; 0: keep the last weights",
    )


class AugmentConfig(Section):
    """The augmentation of the training images: see raycls/data/augment.py. 0 (or false) turns a field off."""

    translate: int = Field(2, ge=0, le=64, description="largest shift in each direction, pixels")
    flip: bool = Field(True, description="mirror each image in every second epoch; its first one is random")
    crop: float = Field(
        0.0, ge=0, lt=1, description="smallest share of the image's area that a random crop, resized, keeps"
    )
    vertical: bool = Field(False, description="turn half of the images upside down, at random")
    quarter_turns: bool = Field(False, description="turn images by 0, 90, 180 or 270 degrees, at random")
    rotate: float = Field(0.0, ge=0, le=180, description="largest rotation in each direction, degrees")
    zoom: float = Field(0.0, ge=0, lt=1, description="largest enlargement and reduction, as a share")
    brightness: float = Field(0.0, ge=0, le=1, description="largest change of brightness, share of the range")
    contrast: float = Field(0.0, ge=0, lt=1, description="largest increase and decrease of contrast, share")
    saturation: float = Field(
        0.0, ge=0, le=1, description="largest increase and decrease of saturation, share"
    )
    hue: float = Field(
        0.0, ge=0, le=0.5, description="largest turn of the colours in each direction, 1: full circle"
    )
    erase: float = Field(
        0.0, ge=0, le=1, description="share of the images in which a random rectangle is blanked"
    )
    cutout: int = Field(0, ge=0, le=512, description="side of the blanked square, pixels")
    policy: Literal["none", "trivial", "rand"] = Field(
        "none",
        description="trivial: one random change of each image, of random strength (TrivialAugment); rand: two, of "
        "one strength (RandAugment). One image after another: for photographs",
    )
    mixup: float = Field(0.0, ge=0, le=10, description="alpha of the Beta distribution of MixUp's shares")
    cutmix: float = Field(0.0, ge=0, le=10, description="alpha of the Beta distribution of CutMix's areas")


class TrainingConfig(Section):
    """Epochs, batches, seed and precision: see raycls/training/loop.py."""

    epochs: int = Field(4, ge=1, le=10_000, description="passes over the training split")
    batch_size: int = Field(1000, ge=2, le=65_536, description="images per step, over all workers together")
    seed: int = Field(0, ge=0, lt=2**31, description="of weights, order and augmentation")
    train_fraction: float = Field(
        1.0, gt=0, le=1, description="share of the training split that is used; small for quick studies"
    )
    reduced_share: float = Field(
        0.0, ge=0, le=1, description="share of the epochs, at the start, with images at 11/16 of their side"
    )
    freeze_after: float = Field(
        1.0,
        ge=0,
        le=1,
        description="share of the steps after which a fastcnn's first layers freeze; 1: never",
    )
    fitted_head: bool = Field(
        False, description="begin with the head that a probe finds, from each image's features"
    )
    frozen_norms: bool = Field(
        False, description="batch norms keep the statistics of the weights that training starts from"
    )
    frozen_epochs: int = Field(0, ge=0, description="epochs at the start in which only the head learns")
    frozen_stages: int = Field(
        0,
        ge=0,
        description="the network's first stages whose trained weights stay: they are computed only once",
    )
    probe: bool = Field(
        False, description="learn a linear head alone, from each image's features, and nothing else"
    )
    balance: Literal["none", "weights", "sampling"] = Field(
        "none",
        description="for unbalanced classes: weight the loss by class, or draw every class equally often",
    )
    patience: int = Field(
        0, ge=0, description="stop after this many epochs without a higher validation accuracy; 0: never"
    )
    precision: Literal["auto", "bf16", "fp16", "fp32"] = Field(
        "auto",
        description="auto: bf16 where the device is faster in it, else fp16 on GPUs that are, else fp32; fp16, with "
        "a scaled loss, is for GPUs alone",
    )

    metric: Metric | None = Field(None, description="decides the best epoch; none: as balance suggests")

    @property
    def chosen_by(self) -> str:
        """Return the metric that decides the best epoch, by its name in MLflow. A lower val_loss is better."""
        metric = self.metric or ("accuracy" if self.balance == "none" else "macro_recall")
        return "val_" + {"macro_recall": "macro_accuracy", "log_loss": "loss"}.get(metric, metric)


class Config(Section):
    """All settings of a training run, except the dataset and the number of workers."""

    network: NetworkConfig = NetworkConfig()
    optim: OptimConfig = OptimConfig()
    augment: AugmentConfig = AugmentConfig()
    training: TrainingConfig = TrainingConfig()

    def flat(self) -> dict[str, Any]:
        """Return `{"network.name": …, "optim.lr": …}`: one value for each leaf, as MLflow logs it."""
        return {f"{s}.{f}": value for s, section in self for f, value in section.model_dump().items()}


_AnySection = TypeVar("_AnySection", bound=BaseModel)


def override(config: Config, assignments: Iterable[str]) -> Config:
    """Return the configuration with each `key=value` applied and validated.

    A key is a path (`optim.lr`), or a field's name if only one section has it (`lr`). A value is JSON or else text.
    Another optimiser brings its own learning rate, weight decay and label smoothing, unless they are assigned.

    Raises ConfigError, which names the key and the values that it accepts.
    """
    tree, assigned = config.model_dump(), set()
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"{assignment!r} is not key=value: write it like training.epochs=8")
        assigned.add(path := path_of(config, key))
        section, leaf = path.split(".")
        try:
            tree[section][leaf] = json.loads(text)
        except ValueError:
            tree[section][leaf] = text
    if tree["optim"]["name"] != config.optim.name:
        own = DEFAULTS.get(str(tree["optim"]["name"]), {})
        tree["optim"] |= {field: value for field, value in own.items() if f"optim.{field}" not in assigned}
    return validated(Config, tree)


def path_of(config: Config, key: str) -> str:
    """Return the path of a key, which is a path or the name of a single field. Raises ConfigError for other keys."""
    paths = list(config.flat())
    found = [path for path in paths if key in (path, path.split(".")[1])]
    if len(found) != 1:
        raise ConfigError(f"unknown setting {key!r}; the settings are: {', '.join(paths)}")
    return found[0]


def validated(section: type[_AnySection], values: dict[str, Any]) -> _AnySection:
    """Return a validated section. All errors that pydantic finds become one line of a ConfigError."""
    try:
        return section.model_validate(values)
    except ValidationError as error:
        raise ConfigError("; ".join(complaints(error))) from None


def complaints(error: ValidationError) -> Iterator[str]:
    """Yield one line for each error that pydantic found."""
    for item in error.errors():
        path = ".".join(str(part) for part in item["loc"])
        yield f"{path}={item['input']!r}: {item['msg'][0].lower()}{item['msg'][1:]}"
