"""Computes what a network looks at: Grad-CAM heat maps, the filters of its first layer, and feature maps.

    layers = spatial_layers(network, fed(network, card, pixels))
    cam = cam_of(network, card, layers)   # None for a network without convolutions
    maps = cam(pixels, targets)           # float32 N×h×w in 0..1

captum computes Grad-CAM (Selvaraju et al., arXiv:1610.02391). This module knows a network and its images, not pages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from raycls.data.tensors import as_tensor, normalize
from raycls.models.card import ModelCard

# Modules whose output is not what the next layer receives, or, in attention, no map of places.
NO_PLACES = (nn.Conv2d, nn.BatchNorm2d, nn.Dropout, nn.Softmax)
LEAST_SIDE = 4  # pixels; a smaller map does not show positions
FILTERS = 32
CHANNELS = 8  # channels shown of each layer
LAYERS = 4


@dataclass(frozen=True)
class Layer:
    """A named module of the network, and its output (float32 N×C×h×w) for the images given to `spatial_layers`."""

    name: str
    module: nn.Module
    output: Tensor

    @property
    def side(self) -> int:
        return self.output.shape[-1]


@dataclass(frozen=True)
class GradCAM:
    """Computes Grad-CAM heat maps at one layer, on the network's device."""

    network: nn.Module
    card: ModelCard
    layer: Layer

    def __call__(self, pixels: np.ndarray, targets: Tensor) -> np.ndarray:
        """Return `grad_cam` (float32 N×h×w in 0..1) for pixels (uint8 N×S×S×3) and targets (int64 N)."""
        inputs = fed(self.network, self.card, pixels)
        return grad_cam(self.network, inputs, targets.to(inputs.device), self.layer).numpy()


def fed(network: nn.Module, card: ModelCard, pixels: np.ndarray) -> Tensor:
    """Return the network's input for pixels (uint8 N×S×S×3): float32 N×3×S×S, normalised, on its device."""
    device = next(network.parameters()).device
    return normalize(as_tensor(pixels).to(device), card.mean, card.std)


@contextmanager
def one_view(network: Any) -> Iterator[None]:
    """Look at an image alone, and not at its mirror image too, whose map would be another one."""
    both = [module for module in network.modules() if getattr(module, "mirror", False)]
    for module in both:
        module.mirror = False
    try:
        yield
    finally:
        for module in both:
            module.mirror = True


def spatial_layers(network: nn.Module, inputs: Tensor) -> list[Layer]:
    """Return the modules with a spatial output (N×C×h×w), in execution order. inputs: float32 N×3×S×S, normalised.

    A module that runs more than once (the ReLU of a ResNet block) has several outputs and is left out.
    """
    layers: list[Layer] = []

    def keep(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_: nn.Module, __: object, output: object) -> None:
            # Some transformers have the channels last, and some modules several outputs.
            if isinstance(output, Tensor) and output.dim() == 4 and output.shape[2] == output.shape[3]:
                layers.append(Layer(name, module, output.float()))

        return module.register_forward_hook(hook)

    hooks = [keep(name, module) for name, module in network.named_modules()]
    try:
        with torch.inference_mode(), one_view(network):
            network(inputs)
    finally:
        for handle in hooks:
            handle.remove()
    calls = Counter(layer.name for layer in layers)
    return [layer for layer in layers if calls[layer.name] == 1]


def cam_layer(layers: list[Layer]) -> Layer | None:
    """Return the last activation or block whose output has LEAST_SIDE pixels a side or more, for Grad-CAM.

    If none is that large, return the one with the largest output. Return None for a network without spatial outputs.
    Convolutions and batch norms are excluded, because Grad-CAM needs the values that the next layer receives.
    """
    given = [layer for layer in layers if not isinstance(layer.module, NO_PLACES)]
    fine = [layer for layer in given if layer.side >= LEAST_SIDE]
    return fine[-1] if fine else max(given, key=lambda layer: layer.side, default=None)


def cam_of(network: nn.Module, card: ModelCard, layers: list[Layer]) -> GradCAM | None:
    """Return Grad-CAM at the layer that `cam_layer` finds, or None if there is none."""
    layer = cam_layer(layers)
    return GradCAM(network, card, layer) if layer else None


def grad_cam(network: nn.Module, inputs: Tensor, targets: Tensor, layer: Layer) -> Tensor:
    """Return how strongly each position supports the target class: float32 N×h×w, from 0 (no support) to 1 (most).

    inputs: float32 N×3×S×S; targets: int64 N, indices of logits. A map is all zeros if no position supports the class.
    """
    from captum.attr import LayerGradCam

    with one_view(network):
        maps = LayerGradCam(network, layer.module).attribute(inputs, target=targets, relu_attributions=True)
    assert isinstance(maps, Tensor)
    maps = maps.detach()[:, 0].float().cpu()
    return maps / maps.amax((1, 2), keepdim=True).clamp(min=1e-12)


def first_filters(network: nn.Module, image_size: int) -> tuple[str, np.ndarray] | None:
    """Return the first layer's name and its weights as pictures: float32 N×k×k×3 in 0..1, where grey is weight 0.

    A convolution gives one picture per filter. A fully connected layer gives one picture per unit, as large as the
    image. Return None if the first layer does not read RGB pixels.
    """
    layers = [(n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    name, first = layers[0]
    if isinstance(first, nn.Conv2d) and first.in_channels == 3:
        weights = first.weight
    elif isinstance(first, nn.Linear) and first.in_features == 3 * image_size**2:
        weights = first.weight.view(-1, 3, image_size, image_size)
    else:
        return None
    shown = weights.detach()[:FILTERS].float().cpu()
    scaled = 0.5 + 0.5 * shown / shown.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)
    return name, scaled.permute(0, 2, 3, 1).numpy()


def feature_maps(layers: list[Layer]) -> list[tuple[str, int, np.ndarray]]:
    """Return (layer name, number of channels, maps: float32 N×CHANNELS×h×w in 0..1) for up to LAYERS convolutions.

    The maps of a layer are the channels that vary most over each image. Layers with maps smaller than LEAST_SIDE
    pixels are left out, because such maps show too little.
    """
    wide = [layer for layer in layers if isinstance(layer.module, nn.Conv2d) and layer.side >= LEAST_SIDE]
    places = sorted({round(i * (len(wide) - 1) / (LAYERS - 1)) for i in range(LAYERS)}) if wide else []
    chosen = []
    for layer in (wide[place] for place in places):
        output = layer.output.cpu()
        order = output.flatten(2).std(2).argsort(1, descending=True)[:, :CHANNELS]
        maps = output[torch.arange(len(output))[:, None], order]
        low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
        chosen.append((layer.name, output.shape[1], ((maps - low) / (high - low).clamp(min=1e-12)).numpy()))
    return chosen
