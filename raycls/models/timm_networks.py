"""timm's networks, by any of its names, with a new last layer for the dataset's classes.

    network = TimmNetwork("timm/convnext_tiny.fb_in22k", num_classes=5, image_size=224, dropout=0.1)
    network.load_state_dict(network.public_weights(), strict=False)

raycls/models/networks.py offers them as `timm/NAME`. timm (https://github.com/huggingface/pytorch-image-models) is
imported only when a network is built. The part of a name after its dot names the weights. They are read as tensors
alone: nothing that comes with them is run.
"""

from __future__ import annotations

from itertools import takewhile
from typing import Any

from torch import Tensor, nn

from raycls import progress
from raycls.errors import ConfigError, SourceError
from raycls.models.base import ANSWER_S, Network, Statistics

PREFIX = "timm/"
KEPT_SIDE = 64  # pixels: below it, the first convolution keeps the side of an image


class TimmNetwork(Network):
    """timm's body with random weights, then dropout and a new `head`.

    A transformer is built for the image size; a convolutional network takes any. For images below 64 pixels, the first
    convolution keeps the side, as little would remain otherwise. That changes no weight's shape.
    """

    def __init__(self, name: str, num_classes: int, image_size: int, dropout: float = 0.0):
        super().__init__()
        self.name = name
        self.image_size = image_size
        self.any_size = not _configuration(name).fixed_input_size
        self.body = self._created()
        features = getattr(self.body, "head_hidden_size", None) or self.body.num_features
        for module in self.body.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = (
                    0.1  # the 0.01 of TensorFlow's networks needs more steps than a small dataset gives
                )
        first = next((module for module in self.body.modules() if isinstance(module, nn.Conv2d)), None)
        # The patches of a transformer do not overlap, and their convolution is no first layer of many.
        small = self.any_size and image_size < KEPT_SIDE
        if first and small and first.stride[0] == 2 < first.kernel_size[0]:
            first.stride = (1, 1)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features, num_classes)

    def _created(self, **given: Any) -> Any:
        import timm

        size: dict[str, Any] = {} if self.any_size else {"img_size": self.image_size}
        try:
            return timm.create_model(self.name.removeprefix(PREFIX), num_classes=0, **size, **given)
        except (TypeError, AssertionError, ValueError) as error:
            raise ConfigError(
                f"{self.name} cannot be built for images of {self.image_size} pixels: {error}"
            ) from None

    def features(self, images: Tensor) -> Tensor:
        return self.dropout(self.body(images))

    def stages(self) -> list[list[nn.Parameter]]:
        named = dict(self.body.named_parameters())
        return [[named[name] for name in names] for names in self._names()] or super().stages()

    def boundary(self, stages: int) -> nn.Module:
        if not self._names():
            return super().boundary(stages)
        paths = [name.split(".")[:-1] for name in self._names()[stages - 1]]
        if not all(paths):  # a parameter of the body itself, such as a position's
            raise ConfigError(
                f"{self.name} cannot be frozen after {stages} stages: take one more, or --set training.frozen_stages=0"
            )
        common = [
            parts[0] for parts in takewhile(lambda each: len(set(each)) == 1, zip(*paths, strict=False))
        ]
        return self.body.get_submodule(".".join(common or paths[-1]))

    def _names(self) -> list[list[str]]:
        """Return the names of the parameters by stage; none for a network of which timm knows no stages."""
        from timm.models import group_parameters

        for coarse in (True, False):
            try:
                matcher = self.body.group_matcher(coarse=coarse)
            except (AttributeError, AssertionError):
                continue
            groups = group_parameters(self.body, matcher)
            return [groups[depth] for depth in sorted(groups) if groups[depth]]
        return []

    def public_weights(self) -> dict[str, Tensor]:
        """Return the weights that the name names. Download them if Hugging Face's cache lacks them.

        Raises SourceError within seconds if the host cannot be reached, and ConfigError for a name without weights.
        """
        import requests
        from huggingface_hub import constants, try_to_load_from_cache

        found = _configuration(self.name)
        if not (found.hf_hub_id or found.url):
            raise ConfigError(
                f"timm has no weights of {self.name}: name those of another one, or a file, with --weights PATH"
            )
        host = constants.ENDPOINT if found.hf_hub_id else found.url
        cached = found.hf_hub_id and isinstance(
            try_to_load_from_cache(found.hf_hub_id, "model.safetensors"), str
        )
        try:
            if not cached:  # timm's download waits long for a host that does not answer
                requests.head(host, timeout=ANSWER_S, allow_redirects=True)
            with progress.bar(f"weights of {self.name}"):
                body = self._created(pretrained=True)
        except ConfigError:
            raise
        except Exception as error:  # of requests, of the hub's client, of urllib, of PyTorch
            raise SourceError(
                f"cannot download the weights of {self.name} from {found.hf_hub_id or host} at {host} "
                f"({type(error).__name__}): download the file on another machine and give its path with --weights "
                "PATH, or begin with random weights: --weights none"
            ) from error
        return {f"body.{name}": tensor for name, tensor in body.state_dict().items()}

    def renamed(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return weights with timm's names under this network's names, fitted to its image size.

        Weights with this network's names are unchanged. Raises ConfigError where they are those of another network.
        """
        if any(name in weights for name in self.state_dict() if name.startswith("body.")):
            return weights
        last = _configuration(self.name).classifier or ()
        heads = tuple(f"{name}." for name in ([last] if isinstance(last, str) else last))
        given = {name: tensor for name, tensor in weights.items() if not name.startswith(heads)}
        head = {
            f"head.{name.removeprefix(heads[0])}": tensor
            for name, tensor in weights.items()
            if heads and name.startswith(heads[0])
        }
        return self._fitted(given) | head

    def resized(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        body = {
            name.removeprefix("body."): value for name, value in weights.items() if name.startswith("body.")
        }
        own = self.body.state_dict()
        if all(
            value.shape == own[name].shape for name, value in body.items()
        ):  # also those of a pruned network
            return weights
        return weights | self._fitted(body)

    def resizes(self, name: str) -> bool:
        return name.startswith("body.")

    def _fitted(self, given: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the body's weights under this network's names, with positions for its image size."""
        # Of no class, as the body here: only then must every weight fit.
        overlay = {"state_dict": dict(given), "num_classes": 0}
        try:
            body = self._created(pretrained=True, pretrained_cfg_overlay=overlay)
        except (RuntimeError, KeyError) as error:
            reason = str(error).strip().splitlines()
            raise ConfigError(
                f"the weights are not those of {self.name}: {reason[1 if len(reason) > 1 else 0].strip()[:200]}"
            ) from None
        return {f"body.{name}": tensor for name, tensor in body.state_dict().items()}


def check_name(name: str) -> None:
    """Raise ConfigError where timm has no network of this name (with its prefix), or no weights of its ending."""
    _configuration(name)


def statistics(name: str) -> Statistics:
    """Return the mean and the standard deviation that the public weights expect. Raises ConfigError."""
    found = _configuration(name)
    (red, green, blue), (of_red, of_green, of_blue) = found.mean, found.std
    return (red, green, blue), (of_red, of_green, of_blue)


def takes_any_size(name: str) -> bool:
    """Return whether a built network also takes images of another size. Raises ConfigError."""
    return not _configuration(name).fixed_input_size


def native_side(name: str) -> int:
    """Return the side of the images that the public weights learned from, pixels. Raises ConfigError."""
    return int(_configuration(name).input_size[-1])


def _configuration(name: str) -> Any:
    """Return timm's description of a network and its weights. Raises ConfigError for an unknown name."""
    import timm

    own = name.removeprefix(PREFIX)
    architecture = own.partition(".")[0]
    known = bool(timm.is_model(architecture))
    try:
        found = timm.get_pretrained_cfg(own) if known else None
    except RuntimeError:  # the network is known, and not these weights
        found = None
    if found is None:
        near = timm.list_pretrained(f"{architecture if known else architecture[:8]}*")[:5]
        raise ConfigError(
            f"timm has no network {own!r}"
            + (f"; it has {', '.join(PREFIX + each for each in near)}" if near else "")
            + f": `raycls networks '{PREFIX}*'` lists all of them"
        )
    return found


def names(pattern: str) -> list[str]:
    """Return the names of timm's networks with weights that match a pattern with `*`, with the prefix."""
    import timm

    return [PREFIX + name for name in timm.list_pretrained(pattern.removeprefix(PREFIX))]
