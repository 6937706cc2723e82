"""How the layers of a network compute while it learns.

network = prepared(network, config, card, workers, device)     # before the first step
freeze(network, config, epoch)                                 # before each epoch, after network.train()
"""

from __future__ import annotations

import torch

from raycls.config import Config
from raycls.models.base import Network
from raycls.models.card import ModelCard
from raycls.models.forward import compute_dtype
from raycls.models.networks import freeze_body, freeze_statistics
from raycls.training.data_parallel import synchronised
from raycls.training.float32_layers import keep_in_float32
from raycls.training.workers import Workers


def prepared(
    network: Network, config: Config, card: ModelCard, workers: Workers, device: torch.device
) -> Network:
    """Return the network with layers that learn well and fast here. Names and values of weights stay."""
    if config.training.frozen_norms:
        # It knows timm's layers, and importing timm takes two seconds that other trainings need not wait for.
        from raycls.training.folded_norms import fold_norms

        fold_norms(network, card.image_size)
    else:
        network = synchronised(network, workers, config.training.batch_size, device)
    if device.type == "cpu" and compute_dtype(config.training.precision, device) != torch.float32:
        keep_in_float32(network)
    return network


def freeze(network: Network, config: Config, epoch: int) -> None:
    """Freeze what does not learn in an epoch (counted from 0), and let the rest learn again."""
    freeze_body(network, epoch < config.training.frozen_epochs)
    if config.training.frozen_norms:
        freeze_statistics(network)
