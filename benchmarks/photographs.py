"""Write photographs to train on and to serve: JPEGs of 500×375 pixels, cut out of three larger photographs.

    python benchmarks/photographs.py photos/
    raycls data prepare photos/ --size 224
    raycls train photos --network resnet18 --preset smoke --set training.epochs=5
    raycls promote photos 1
    python benchmarks/serving.py --peers --name photographs --model photos --images photos/

The three photographs come with scikit-learn and Matplotlib; each is one class. The places are random with a fixed seed.
The pieces are as costly to decode as any photograph. The accuracy of a model on them means nothing.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import matplotlib
import numpy as np
import sklearn.datasets
from PIL import Image

from raycls import command, progress
from raycls.errors import UsageError

SIZE = (500, 375)
PIECES = 100  # of each photograph
QUALITY = 90


def photographs() -> dict[str, Path]:
    """Return the file of each photograph by its name."""
    images = Path(sklearn.datasets.__file__).parent / "images"
    samples = Path(matplotlib.get_data_path()) / "sample_data"
    return {
        "temple": images / "china.jpg",
        "flower": images / "flower.jpg",
        "portrait": samples / "grace_hopper.jpg",
    }


def write(folder: Path) -> int:
    """Write PIECES pieces of each photograph to FOLDER/NAME/ and return their number."""
    rng = np.random.default_rng(0)
    for name, file in photographs().items():
        (folder / name).mkdir(parents=True)
        with Image.open(file) as photograph:
            columns, rows = np.subtract(photograph.size, SIZE) + 1
            for place in rng.choice(columns * rows, PIECES, replace=False).tolist():
                top, left = divmod(place, columns)
                piece = photograph.crop((left, top, left + SIZE[0], top + SIZE[1]))
                piece.save(folder / name / f"{left}-{top}.jpg", quality=QUALITY)
    return PIECES * len(photographs())


def main(arguments: list[str]) -> None:
    """Write the photographs to the folder that the command line names. Raises RayclsError."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="a new folder")
    folder = parser.parse_args(arguments).folder
    if folder.exists():
        raise UsageError(f"{folder} exists: give a new folder")
    progress.say(f"wrote {write(folder)} photographs to {folder}")


if __name__ == "__main__":
    command.run(main)
