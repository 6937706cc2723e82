"""A registered version as one of MLflow's own models, so that other tools of MLflow can use it.

    found = mlflow.pyfunc.load_model("models:/pets/3")
    found.predict(pd.DataFrame({"image": [Path("cat.png").read_bytes()]}))   # class_index, class_name, confidence

    mlflow models serve -m models:/pets/3 --env-manager local                # the same over HTTP

`register` adds a small file MLmodel beside weights and card. It names this module, which MLflow imports, and holds no
pickled object: who loads the model needs raycls, and runs nothing that came with the weights.
"""

from __future__ import annotations

import base64
import binascii
import json
import platform
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from raycls.engines.rejection import Rejection
from raycls.errors import UsageError
from raycls.registry.model_version import REJECTION

if TYPE_CHECKING:
    from raycls.engines.predictor import Predictor

FILE, INPUT = "MLmodel", "image"
OUTPUTS = {"class_index": "long", "class_name": "string", "confidence": "double"}
REJECTED = "rejected"  # the output that only a version with a threshold has


def description(run_id: str, rejection: Rejection | None = None) -> str:
    """Return the content of the file MLmodel for a version that a run made: YAML.

    rejection: the version's thresholds, which travel with the file to where no registry is. The rest is what MLflow's
    own classes write. Importing them takes three seconds of each training.
    """
    from mlflow import __version__ as mlflow_version

    outputs = OUTPUTS | ({REJECTED: "boolean"} if rejection else {})
    return yaml.safe_dump(
        {
            "flavors": {
                "python_function": {"loader_module": __name__, "python_version": platform.python_version()}
            },
            **({"metadata": {REJECTION: rejection.model_dump()}} if rejection else {}),
            "mlflow_version": mlflow_version,
            "model_uuid": uuid.uuid4().hex,
            "run_id": run_id,
            "signature": {
                "inputs": json.dumps([{"type": "any", "name": INPUT, "required": True}]),
                "outputs": json.dumps(
                    [{"type": kind, "name": name, "required": True} for name, kind in outputs.items()]
                ),
                "params": None,
            },
            "utc_time_created": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f}",
        }
    )


class Images:
    """What MLflow calls: encoded images, their base64 text, or pixels (uint8 H×W×3), to predictions."""

    def __init__(self, predictor: Predictor):
        self._predictor = predictor

    def predict(self, images: Any, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return class_index, class_name, confidence and, where there is a threshold, rejected, of each row of a data
        frame's column `image`.

        Raises ImageError and UsageError.
        """
        pixels = np.stack([self._pixels(value) for value in images[INPUT]])
        found = self._predictor.predictions(*self._predictor.outputs(pixels))
        names = [*OUTPUTS, *([] if self._predictor.limits is None else [REJECTED])]
        return [{name: getattr(each, name) for name in names} for each in found]

    def _pixels(self, value: Any) -> np.ndarray:
        """Return uint8 S×S×3, as `raycls data prepare` makes it."""
        from PIL import Image

        from raycls.data.transforms import to_square

        if isinstance(value, str):
            try:
                value = base64.b64decode(value, validate=True)
            except (binascii.Error, ValueError) as error:
                raise UsageError(f"an image as text is base64: {error}") from None
        if isinstance(value, bytes):
            return self._predictor.read(value)
        image = np.asarray(value)
        if image.ndim != 3 or image.shape[2] != 3 or not np.issubdtype(image.dtype, np.integer):
            raise UsageError(
                f"an image is bytes, base64 or whole numbers H×W×3, and not {image.dtype} {image.shape}"
            )
        if image.size and not 0 <= image.min() <= image.max() <= 255:
            raise UsageError(f"a pixel is 0 to 255, and these are {image.min()} to {image.max()}")
        card = self._predictor.card
        return to_square(Image.fromarray(image.astype(np.uint8)), card.image_size, card.resize)


def _load_pyfunc(path: str) -> Images:
    """Return the model in a directory. MLflow calls this function by its name."""
    from raycls.engines.predictor import Predictor

    described = yaml.safe_load((Path(path) / FILE).read_text())
    given = (described.get("metadata") or {}).get(REJECTION)
    rejection = Rejection.model_validate(given) if given else None
    return Images(Predictor.load(Path(path), rejection=rejection))
