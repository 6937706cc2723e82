"""A picture of a dataset: one row for each class, with its name and its first training images.

    contact_sheet(open_dataset("cifar10")).save("cifar10.png")

It shows wrong labels and wrong crops before any training. It knows packed datasets only.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from raycls.data.packed import PackedDataset

COLUMNS = 10
CELL = 64  # pixels a side of an image on the sheet
GAP = 4
MAX_ROWS = 100  # classes on a sheet: an image viewer must be able to open it


def contact_sheet(dataset: PackedDataset) -> Image.Image:
    """Return an RGB image: name, count and COLUMNS training images of each of the first MAX_ROWS classes."""
    info = dataset.info
    images, labels = dataset.images("train"), dataset.labels("train")
    totals = [sum(counts) for counts in zip(*info.class_counts.values(), strict=True)]
    captions = [f"{name} ({total:,})" for name, total in zip(info.classes, totals, strict=True)][:MAX_ROWS]
    font = ImageFont.load_default(14)
    margin = GAP + max(int(font.getlength(caption)) for caption in captions) + 2 * GAP
    step = CELL + GAP
    sheet = Image.new("RGB", (margin + COLUMNS * step, GAP + len(captions) * step), "white")
    draw = ImageDraw.Draw(sheet)
    # Enlarged images keep sharp pixels. Only a reduction averages pixels.
    resample = Image.Resampling.NEAREST if info.image_size < CELL else Image.Resampling.BILINEAR
    for row, caption in enumerate(captions):
        top = GAP + row * step
        draw.text((GAP, top + CELL // 2), caption, fill="black", font=font, anchor="lm")
        for column, pixels in enumerate(images[np.flatnonzero(labels == row)[:COLUMNS]]):
            picture = Image.fromarray(pixels).resize((CELL, CELL), resample)
            sheet.paste(picture, (margin + column * step, top))
    return sheet
