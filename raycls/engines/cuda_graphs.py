"""The engine `cuda-graphs`: one copy moves a batch to the GPU, and one launch runs all of its kernels.

    run = CUDAGraphs(network.to("cuda"), card)
    logits, embeddings = run(images)            # uint8 N×S×S×3 to float32 N×C and N×D

For a small network, launching the kernels one by one takes longer than computing them. This module knows a network and
its card, not checkpoints. Source: PyTorch's notes on CUDA graphs,
https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from raycls.data.tensors import as_tensor
from raycls.models.base import Network
from raycls.models.card import ModelCard
from raycls.models.forward import WithNormalization, compute_dtype

# Batch sizes with a CUDA graph of their own. A batch of another size runs the graph of the next larger size.
RECORDED = (1, 2, 4, 8, 16, 32, 64)
WARM_UP = 3  # passes of each size before the recording


class CUDAGraphs:
    """A network as a function: uint8 N×S×S×3 to float32 N×C and N×D. The network must be on a GPU; it stays there."""

    def __init__(self, network: Network, card: ModelCard):
        device = next(network.parameters()).device
        side, dtype = card.image_size, compute_dtype("auto", device)
        self._classes = len(card.classes)
        # A graph reads fixed addresses in memory. So all of its inputs must stay alive: the images, the weights, and
        # the constants of the normalisation.
        self._network = WithNormalization(network, card).to(device).eval()
        self._host_pixels = torch.zeros(RECORDED[-1], side, side, 3, dtype=torch.uint8, pin_memory=True)
        self._pixels = self._host_pixels.to(device)
        self._recorded: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        with torch.inference_mode(), torch.cuda.device(device):
            warm_up = torch.cuda.Stream()
            warm_up.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(warm_up):  # libraries choose their kernels in the first passes
                for size in RECORDED:
                    for _ in range(WARM_UP):
                        self._forward(size, dtype)
            torch.cuda.current_stream().wait_stream(warm_up)
            pool = torch.cuda.graph_pool_handle()
            for size in reversed(RECORDED):  # largest first: the smaller graphs share its memory in the pool
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool):
                    outputs = self._forward(size, dtype)
                self._recorded[size] = graph, outputs

    def _forward(self, size: int, dtype: torch.dtype) -> Tensor:
        """Return logits and embeddings side by side, N×(C+D), so that one copy moves both to the host."""
        # Autocast's cache must be off during the recording of a graph.
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32, cache_enabled=False):
            logits, embeddings = self._network(self._pixels[:size])
            return torch.cat([logits.float(), embeddings.float()], 1)

    def __call__(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        parts = []
        for part in as_tensor(images).split(RECORDED[-1]):
            count = len(part)
            graph, outputs = self._recorded[next(size for size in RECORDED if size >= count)]
            self._host_pixels[:count].copy_(part)
            self._pixels[:count].copy_(self._host_pixels[:count], non_blocking=True)
            graph.replay()
            # The copy waits for the GPU: then the pinned memory can be filled again.
            parts.append(outputs[:count].cpu())
        both = torch.cat(parts).numpy()
        return both[:, : self._classes], both[:, self._classes :]
