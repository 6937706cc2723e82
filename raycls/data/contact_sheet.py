"""What is in a dataset, at a glance: a row per class, its first training images beside its name.

contact_sheet(open_dataset("cifar10")).save("cifar10.png")
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from raycls.data.packed import PackedDataset

COLUMNS = 10
CELL = 64  # pixels a side of an image on the sheet
GAP = 4
MAX_ROWS = 100  # a sheet of more classes shows the first ones: it must still open in a viewer


def contact_sheet(dataset: PackedDataset) -> Image.Image:
    """An RGB image: COLUMNS training images for each of the first MAX_ROWS classes, after name and count."""
    manifest = dataset.manifest
    images, labels = dataset.images("train"), dataset.labels("train")
    totals = [sum(counts) for counts in zip(*manifest.class_counts.values(), strict=True)]
    captions = [f"{name} ({total:,})" for name, total in zip(manifest.classes, totals, strict=True)][
        :MAX_ROWS
    ]
    font = ImageFont.load_default(14)
    margin = GAP + max(int(font.getlength(caption)) for caption in captions) + 2 * GAP
    step = CELL + GAP
    sheet = Image.new("RGB", (margin + COLUMNS * step, GAP + len(captions) * step), "white")
    draw = ImageDraw.Draw(sheet)
    # Enlarged pixels stay visible as such; only shrinking averages them.
    resample = Image.Resampling.NEAREST if manifest.image_size < CELL else Image.Resampling.BILINEAR
    for row, caption in enumerate(captions):
        top = GAP + row * step
        draw.text((GAP, top + CELL // 2), caption, fill="black", font=font, anchor="lm")
        for column, index in enumerate(np.flatnonzero(labels == row)[:COLUMNS]):
            picture = Image.fromarray(images[index]).resize((CELL, CELL), resample)
            sheet.paste(picture, (margin + column * step, top))
    return sheet
