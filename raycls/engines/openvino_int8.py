"""The engine `openvino-int8`: OpenVINO computes the network's convolutions and products in int8.

    make(checkpoint_directory, images, checkpoint_directory / INT8_FOLDER)      # images: uint8 N×S×S×3, training images
    run = load(checkpoint_directory, threads=1)
    logits, embeddings = run(images)                                       # uint8 N×S×S×3 to float32 N×C and N×D

A quantized graph depends on the images that calibrated it. So it is made once, measured, and kept beside the weights:
every replica computes the graph that was measured. NNCF quantizes (static, one scale for each filter), in another
process: it is imported nowhere else. Source: docs.openvino.ai, "Basic Quantization Flow".
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from raycls import command
from raycls.engines import openvino, openvino_graph
from raycls.engines.build import Run
from raycls.engines.openvino_graph import INT8_FOLDER
from raycls.errors import EngineError
from raycls.models import card as cards
from raycls.models.card import ModelCard

CALIBRATION = 256  # training images that give the range of every tensor
# Of one calibration pass. NNCF holds all tensors of a pass in memory.
MOST_IMAGES, MOST_PIXELS = 64, 500_000
ATTENTION = {"Softmax", "ScaledDotProductAttention"}  # operations of a transformer


def make(directory: Path, images: np.ndarray, folder: Path) -> None:
    """Quantize the network of a checkpoint directory and write its graph to `folder`.

    images: uint8 N×S×S×3, of the training split. Raises EngineError if NNCF or OpenVINO cannot quantize the network.
    """
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "images.npy")
        np.save(file, images)
        openvino_graph.in_other_process(__name__, directory, file, folder)


def load(directory: Path, threads: int) -> Run:
    """Return the quantized network of a checkpoint directory as a function.

    Raises CheckpointError for a damaged card, EngineError if there is no whole graph.
    """
    card = cards.load_card(directory)
    with openvino.as_engine_errors(card):
        graph = openvino_graph.read(directory / INT8_FOLDER)
    if graph is None:
        raise EngineError(
            f"{directory / INT8_FOLDER} has no whole int8 graph: promote the version again, which makes and measures it"
        )
    return openvino.as_function(graph, card, threads)


def _quantized(directory: Path, card: ModelCard, images: np.ndarray) -> Any:
    """Return the OpenVINO graph of a checkpoint's network with int8 weights and ranges for the tensors between them."""
    from raycls.models import checkpoint

    graph = openvino.convert(checkpoint.load(directory)[0], card)
    import nncf  # after openvino without telemetry, which it would import

    size = max(1, min(len(images), MOST_IMAGES, MOST_PIXELS // card.image_size**2))
    batches = [images[start : start + size] for start in range(0, len(images) - size + 1, size)]
    has_attention = any(operation.get_type_name() in ATTENTION for operation in graph.get_ops())
    with openvino.as_engine_errors(card):
        graph.reshape([size, card.image_size, card.image_size, 3])
        return nncf.quantize(
            graph,
            nncf.Dataset(batches),
            subset_size=len(batches),
            preset=nncf.QuantizationPreset.MIXED,  # u8 between layers, which ReLU needs
            model_type=nncf.ModelType.TRANSFORMER if has_attention else None,
            # Half of the range is only needed on CPUs whose int8 sums overflow; the engine does not run there.
            advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.DISABLE),
        )


def main(arguments: list[str]) -> None:
    """Quantize the network of a checkpoint directory with the images of a file, and write the graph to a folder."""
    directory, file, folder = map(Path, arguments)
    openvino_graph.write(_quantized(directory, cards.load_card(directory), np.load(file)), folder)


if __name__ == "__main__":
    command.run(main)
