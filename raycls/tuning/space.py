"""Defines the search space of a study: a range or a list of choices for each setting that is searched.

    space = around(config, images=45_000)       # batch size, learning rate, dropout
    space = load(Path("space.yaml"), config)    # any settings

A space file is YAML or JSON with one setting per line. A setting is named by its path, or by its last part if only one
section has it:

    lr: {low: 0.05, high: 1.0, log: true}
    batch_size: {low: 250, high: 1000, log: true}
    network.dropout: {low: 0.0, high: 0.5, step: 0.1}
    network.widths: {choices: [[32, 64], [64, 128, 128]]}

The space is validated against the fields of the configuration before a study starts. Optuna stores only numbers and
text, so a list is stored as JSON. `raycls.config.override` reads the JSON back.
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from raycls.config import Config, complaints, override, path_of
from raycls.errors import ConfigError

if TYPE_CHECKING:
    from optuna import Trial

Value = int | float | str | bool | None
SMALLEST = 32  # pixels: less than that, networks of others leave nothing of an image


class Domain(BaseModel):
    """The possible values of one setting: the range from low to high (both included), or a list of choices."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    low: int | float | None = Field(None, description="smallest value of the range")
    high: int | float | None = Field(None, description="largest value of the range")
    log: bool = Field(
        False, description="orders of magnitude matter: as many values from 1 to 10 as from 10 to 100"
    )
    step: int | float | None = Field(None, gt=0, description="only every so many from low on")
    points: int = Field(4, ge=2, description="how many values a grid takes of a range")
    choices: tuple[Any, ...] | None = Field(None, description="the values, in place of a range")

    @model_validator(mode="after")
    def _complete(self) -> Domain:
        if self.choices is not None:
            if not self.choices or self.low is not None or self.high is not None or self.step or self.log:
                raise ValueError("give some choices and nothing else, or low and high")
            return self
        if self.low is None or self.high is None or not self.low < self.high:
            raise ValueError("give choices, or low and a larger high")
        if self.log and (self.step or self.low <= 0):
            raise ValueError("a log scale needs a low above 0 and takes no step")
        return self

    @property
    def whole(self) -> bool:
        """Return whether all values of the range are whole numbers."""
        return all(isinstance(end, int) for end in (self.low, self.high, self.step or 1))

    @property
    def values(self) -> tuple[Value, ...]:
        """Return the choices in the form that Optuna stores."""
        return tuple(encoded(choice) for choice in self.choices or ())

    def ends(self) -> tuple[Any, ...]:
        """Return the values to validate: all choices, or both ends of the range."""
        return (self.low, self.high) if self.choices is None else self.choices

    def contains(self, value: Value) -> bool:
        """Return whether the domain contains the value (in the form that Optuna stores)."""
        if self.choices is not None:
            return value in self.values
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        assert self.low is not None and self.high is not None
        steps = (value - self.low) / self.step if self.step else 0.0
        return self.low <= value <= self.high and abs(steps - round(steps)) < 1e-8

    def grid(self) -> list[Value]:
        """Return the grid values: all choices, every step, or `points` values of the range.

        The points are evenly spaced. On a log scale, their ratios are equal.
        """
        if self.choices is not None:
            return list(self.values)
        assert self.low is not None and self.high is not None
        if self.step:
            count = int((self.high - self.low) / self.step + 1e-9) + 1
            points = [self.low + i * self.step for i in range(count)]
        elif self.log:
            ratio = math.log(self.high / self.low)
            points = [self.low * math.exp(ratio * i / (self.points - 1)) for i in range(self.points)]
        else:
            points = [self.low + (self.high - self.low) * i / (self.points - 1) for i in range(self.points)]
        # Rounding may move a point beyond the end of the range, where it is invalid.
        points = [min(point, self.high) for point in points]
        return [*sorted({round(point) for point in points})] if self.whole else [*points]


Space = dict[str, Domain]  # by the path of the setting


def encoded(value: Any) -> Value:
    """Return a setting's value in the form that Optuna stores. A list becomes JSON."""
    return json.dumps(list(value)) if isinstance(value, list | tuple) else value


def around(config: Config, images: int) -> Space:
    """Return the default space around a configuration. `images` is the number of training images in use.

    The learning rate ranges from a quarter to four times its value, and the batch size from a quarter to twice its
    value (at most `images`). Both are on a log scale. Dropout ranges from 0 to 0.5. The grid has 4 × 4 × 3 points.
    """
    lr, largest = config.optim.lr, max(3, min(images, config.training.batch_size * 2))
    smallest = max(2, min(largest - 1, round(config.training.batch_size / 4)))
    return {
        # With a range, unlike with choices, the sampler knows that 250 is nearer to 500 than to 2000.
        "training.batch_size": Domain(low=smallest, high=largest, log=True),
        "optim.lr": Domain(low=lr / 4, high=min(10.0, lr * 4), log=True),
        "network.dropout": Domain(low=0.0, high=0.5, points=3),
    }


def architectures(config: Config, side: int) -> Space:
    """Return a space of network widths, for one stage less, the same number of stages, and one stage more.

    The widths are 0.5, 0.75, 1 and 1.5 times those of the configuration. A network of others has no widths: it gets a
    space of image sizes, from 4/7 of `side` (the dataset's, pixels) on. Raises ConfigError if it takes one size alone.
    """
    from raycls.models.networks import takes_any_size  # imports PyTorch

    widths = config.network.widths
    if not widths and not takes_any_size(config.network.name):
        raise ConfigError(
            f"{config.network.name} has a fixed shape and size: search accuracy and latency with another --network, or "
            "give network.name choices in --space"
        )
    if not widths:
        smaller = [size for share in (4, 5, 6) if (size := side * share // 7) >= SMALLEST]
        return {"network.image_size": Domain(choices=(*smaller, None))}
    depths = {len(widths) - 1: widths[:-1], len(widths): widths, len(widths) + 1: (*widths, widths[-1])}
    choices = [
        [max(4, round(width * factor)) for width in stages]
        for depth, stages in depths.items()
        if depth
        for factor in (0.5, 0.75, 1, 1.5)
    ]
    return {"network.widths": Domain(choices=tuple(choices))}


def architecture(config: Config) -> str:
    """Return a key for what latency depends on in a space: the network's name, its widths, `mirror`, and the size."""
    network = config.network
    mirror = [True] if network.mirror else []
    size = [network.image_size] if network.image_size else []
    return json.dumps([network.name, list(network.widths), *mirror, *size])


def load(path: Path, config: Config) -> Space:
    """Return the space in a file. Raises ConfigError that names the invalid setting and the reason."""
    try:
        tree = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--space {path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict) or not tree:
        raise ConfigError(f"--space {path}: write settings, like lr: {{low: 0.05, high: 1.0, log: true}}")
    space: Space = {}
    for key, entry in tree.items():
        try:
            space[path_of(config, str(key))] = Domain.model_validate(entry)
        except ValidationError as error:
            raise ConfigError(f"--space {path}: {key}: {'; '.join(complaints(error))}") from None
    check(space, config)
    return space


def check(space: Space, config: Config) -> None:
    """Raise ConfigError if the space has a value that its setting does not accept."""
    for path, domain in space.items():
        if path == "training.epochs":
            raise ConfigError(
                "the space cannot hold training.epochs: all trials are as long as --max-epochs says"
            )
        for value in domain.ends():
            override(config, [assignment(path, value)])
        own = config.flat()[path]
        if domain.choices is None and isinstance(own, int) and not domain.whole:
            raise ConfigError(f"{path} takes whole numbers: give low, high and step without a decimal point")


def assignment(path: str, value: Any) -> str:
    """Return `PATH=VALUE`, the form that `override` accepts."""
    value = encoded(value)
    return f"{path}={value if isinstance(value, str) else json.dumps(value)}"


def configured(config: Config, values: dict[str, Value]) -> Config:
    """Return the configuration with the values of a trial."""
    return override(config, [assignment(path, value) for path, value in values.items()])


def own_values(space: Space, config: Config) -> dict[str, Value] | None:
    """Return the configuration's own values for the settings of the space, or None if the space excludes one."""
    flat = config.flat()
    own = {path: encoded(flat[path]) for path in space}
    return own if all(domain.contains(own[path]) for path, domain in space.items()) else None


def grid(space: Space) -> list[dict[str, Value]]:
    """Return every combination of the settings' grid values."""
    columns = [domain.grid() for domain in space.values()]
    return [dict(zip(space, row, strict=True)) for row in itertools.product(*columns)]


def suggest(trial: Trial, space: Space) -> dict[str, Value]:
    """Return a trial's value for every setting. The study's sampler chooses the values that the trial does not have."""
    values: dict[str, Value] = {}
    for path, domain in space.items():
        if domain.choices is not None:
            values[path] = trial.suggest_categorical(path, domain.values)
        elif domain.whole:
            values[path] = trial.suggest_int(
                path, int(domain.low or 0), int(domain.high or 0), step=int(domain.step or 1), log=domain.log
            )
        else:
            values[path] = trial.suggest_float(
                path, float(domain.low or 0), float(domain.high or 0), step=domain.step, log=domain.log
            )
    return values
