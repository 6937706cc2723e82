"""The engine `cuda-graphs`: a batch crosses to the GPU in one copy, and one launch does all of its kernels.

After PyTorch's notes on CUDA graphs, https://docs.pytorch.org/docs/stable/notes/cuda.html#cuda-graphs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from raycls.data.tensors import as_tensor
from raycls.models.card import ModelCard
from raycls.models.forward import WithNormalization, compute_dtype

# Images: batches that have a CUDA graph; one in between plays the next larger.
RECORDED = (1, 2, 4, 8, 16, 32, 64)
WARM_UP = 3  # passes before one is recorded


class CUDAGraphs:
    """The network as a function: uint8 N×S×S×3 to float32 N×C. It is on the device that it runs on."""

    def __init__(self, network: nn.Module, card: ModelCard):
        device = next(network.parameters()).device
        side, dtype = card.image_size, compute_dtype("auto", device)
        # A recording knows addresses alone: what it reads must stay, the constants of the normalisation too.
        self._network = WithNormalization(network, card).to(device).eval()
        self._waiting = torch.zeros(RECORDED[-1], side, side, 3, dtype=torch.uint8, pin_memory=True)
        self._pixels = self._waiting.to(device)
        self._recorded: dict[int, tuple[torch.cuda.CUDAGraph, Tensor]] = {}
        with torch.inference_mode(), torch.cuda.device(device):
            beside = torch.cuda.Stream()
            beside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(beside):  # libraries choose their kernels in the first passes
                for size in RECORDED:
                    for _ in range(WARM_UP):
                        self._forward(size, dtype)
            torch.cuda.current_stream().wait_stream(beside)
            pool = torch.cuda.graph_pool_handle()
            for size in reversed(RECORDED):  # in one pool the smaller ones find the memory of the largest
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool):
                    logits = self._forward(size, dtype)
                self._recorded[size] = graph, logits

    def _forward(self, size: int, dtype: torch.dtype) -> Tensor:
        # Autocast's cache must be off while a graph is recorded.
        with torch.autocast("cuda", dtype, enabled=dtype != torch.float32, cache_enabled=False):
            return self._network(self._pixels[:size]).float()

    def __call__(self, images: np.ndarray) -> np.ndarray:
        parts = []
        for part in as_tensor(images).split(RECORDED[-1]):
            count = len(part)
            graph, logits = self._recorded[next(size for size in RECORDED if size >= count)]
            self._waiting[:count].copy_(part)
            self._pixels[:count].copy_(self._waiting[:count], non_blocking=True)
            graph.replay()
            parts.append(logits[:count].cpu())  # waits, so that the pinned memory may be filled again
        return torch.cat(parts).numpy()
