"""A model version as one file to take away: a page about its mistakes, or a zip of an export and its description.

    write("pets/3", "onnx", Path("pets.zip"))

`raycls evaluate --report` and `raycls export` write the same. PyTorch is imported when a file is written.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path

from raycls import registry
from raycls.data.versions import open_by_fingerprint
from raycls.errors import UsageError
from raycls.models.card import load_card
from raycls.registry import ModelVersion

REPORT = "report"
KINDS = (REPORT, "onnx", "torch-export", "torchscript")
SPLIT = "test"  # of which the report tells


def file_name(version: ModelVersion, kind: str) -> str:
    """Return the name under which a browser saves the file of a version."""
    return f"{version.name}-{version.version}-{kind}{'.html' if kind == REPORT else '.zip'}"


def write(reference: str, kind: str, output: Path) -> None:
    """Write the file of a kind, whole or not at all.

    kind: `report`, or a format of `raycls.engines.export`. Raises UsageError for another kind, and what the registry,
    the dataset and the export raise.
    """
    if kind not in KINDS:
        raise UsageError(f"there is no {kind}; there are: {', '.join(KINDS)}")
    version = registry.resolve(reference)
    with tempfile.TemporaryDirectory(dir=output.parent) as temporary:
        made = Path(temporary) / file_name(version, kind)
        (_report if kind == REPORT else _export)(version, kind, made)
        made.replace(output)


def _report(version: ModelVersion, kind: str, output: Path) -> None:
    from raycls.engines.examples import match
    from raycls.engines.predictor import Predictor
    from raycls.reports.model_report import write_report
    from raycls.training.evaluation import score

    predictor = Predictor.load(registry.checkpoint(version))
    dataset = open_by_fingerprint(*predictor.card.learned_from)
    write_report(version, predictor, score(predictor, match(predictor.card, dataset, SPLIT)), output)


def _export(version: ModelVersion, kind: str, output: Path) -> None:
    from raycls.engines.export import export
    from raycls.engines.export_formats import SUFFIX

    directory = registry.checkpoint(version)
    dataset = open_by_fingerprint(*load_card(directory).learned_from)
    file = output.with_name(f"{version.name}-{version.version}{SUFFIX[kind]}")
    exported = export(directory, dataset, file, format=kind, int8=False, model=version.reference)
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (exported.path, exported.description):
            archive.write(path, path.name)
