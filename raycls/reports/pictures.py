"""Turns pixels into PNG files: single images, images side by side, and heat maps over images.

    png(mosaic([image, overlay(image, heat)], cell=128))

Small images are enlarged without smoothing, so the picture shows the exact pixels that the network receives. This
module knows only arrays.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image

GAP = 4  # pixels between the cells of a mosaic, transparent so that they fit light and dark pages


def png(image: Image.Image | np.ndarray) -> bytes:
    """Return an image, or an array (uint8 H×W×3), as PNG bytes."""
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def mosaic(images: Sequence[np.ndarray], *, cell: int, columns: int | None = None) -> Image.Image:
    """Return images (uint8 H×W×3) in rows of `columns` (default: one row). Each is about `cell` pixels a side."""
    columns = columns or len(images)
    rows = -(-len(images) // columns)
    side = _side(images[0].shape[0], cell)
    size = (columns * (side + GAP) - GAP, rows * (side + GAP) - GAP)
    sheet = Image.new("RGBA", size, (0, 0, 0, 0))
    for i, pixels in enumerate(images):
        resample = Image.Resampling.NEAREST if pixels.shape[0] <= side else Image.Resampling.BILINEAR
        enlarged = Image.fromarray(pixels).resize((side, side), resample)
        sheet.paste(enlarged, (i % columns * (side + GAP), i // columns * (side + GAP)))
    return sheet


def _side(pixels: int, cell: int) -> int:
    """Return `cell`, or for a small image the nearest multiple of its side, so all pixels are equally large."""
    return max(1, round(cell / pixels)) * pixels if pixels <= cell else cell


def overlay(pixels: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return the image (uint8 S×S×3) under a heat map (float h×w in 0..1) as uint8 S'×S'×3. Small images grow."""
    import matplotlib

    side = _side(pixels.shape[0], max(128, pixels.shape[0]))
    ground = Image.fromarray(pixels).resize((side, side), Image.Resampling.NEAREST)
    smooth = Image.fromarray(heat.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    strength = np.clip(np.asarray(smooth), 0, 1)
    colours = matplotlib.colormaps["inferno"](strength)[..., :3] * 255
    # The image stays visible everywhere. It is dark where the map is low and coloured where the map is high.
    grey = np.asarray(ground.convert("L").convert("RGB"), dtype=np.float32)
    return (0.4 * grey + 0.6 * colours).round().astype(np.uint8)


def coloured(values: np.ndarray) -> np.ndarray:
    """Return float N×h×w in 0..1 as colours, uint8 N×h×w×3: dark blue for 0, green, then yellow for 1."""
    import matplotlib

    return (matplotlib.colormaps["viridis"](values)[..., :3] * 255).round().astype(np.uint8)
