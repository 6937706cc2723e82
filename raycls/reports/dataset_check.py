"""Runs the check of a dataset version: predictions, findings, page.

done = run_check("pets", model="pets/3")
done.findings, done.page
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from raycls import progress, registry
from raycls.data.check import Finding, check
from raycls.data.packed import DatasetInfo, PackedDataset
from raycls.data.versions import open_dataset
from raycls.engines.predictor import Predictor
from raycls.errors import UsageError
from raycls.models.card import ModelCard, load_card
from raycls.reports import dataset_report, last_check
from raycls.training.out_of_fold import out_of_fold, predicted
from raycls.training.presets import PRESETS


@dataclass(frozen=True, kw_only=True)
class Checked:
    """The findings, the page, and the list for --exclude."""

    dataset: PackedDataset
    findings: list[Finding]
    page: Path
    excluded: Path

    def as_json(self) -> dict[str, Any]:
        document = dataset_report.as_json(self.dataset, self.findings)
        return {**document, "page": str(self.page), "exclude": str(self.excluded)}


def run_check(
    reference: str,
    *,
    model: str | None,
    folds: int,
    preset_name: str,
    output: Path | None,
    unchecked: str = "",
) -> Checked:
    """Check a dataset version, write the page, and keep the findings for whoever looks later.

    model: a registered model that predicts; None trains `folds` models of the preset on parts of the dataset. Preset
    "none" makes no predictions; unchecked: why. Raises UsageError if the model has other classes, and what the parts
    raise.
    """
    dataset = open_dataset(reference)
    info = dataset.info
    page = output or Path(f"{info.name}-{info.version}-check.html")
    dataset_report.check_output(page)
    known = [name for name in PRESETS if name != "probe"]  # which needs a network that is trained
    if preset_name not in (*known, "none"):
        raise UsageError(f"unknown preset {preset_name!r}; the presets are: {', '.join(known)}, none")
    if model:
        version = registry.resolve(model)
        predictor = Predictor.load(registry.checkpoint(version))
        if not _fits(predictor.card, info):
            raise UsageError(
                f"{version.reference} has other classes or another image size than {info.reference}"
            )
        probabilities = predicted(dataset, predictor)
        told = (
            f"{version.reference} predicts. It may know the images that it learned from by heart: label errors among "
            "them stay hidden."
        )
    elif preset_name == "none":
        probabilities, told = None, f"The labels were not checked{': ' if unchecked else ''}{unchecked}."
    else:
        probabilities = out_of_fold(dataset, preset_name, folds)
        labels = np.concatenate([dataset.labels(split) for split in info.counts])
        right = float((probabilities.argmax(1) == labels).mean())
        told = (
            f"Each image was predicted by one of {folds} models that had not learned from it. They were right for "
            f"{right:.0%}: the lower that is, the more of the probable label errors are errors of the models."
        )
        progress.say(told)
    with progress.bar(f"looking at {sum(info.counts.values()):,} images"):
        findings = check(dataset, probabilities)
        written = dataset_report.write_report(dataset, findings, page, predictions=told)
        last_check.keep(dataset, findings, predictions=told)
    return Checked(dataset=dataset, findings=findings, page=written[0], excluded=written[1])


def check_with_champion(reference: str) -> None:
    """Check a version with the predictions of its dataset's champion, or without any where that does not fit.

    The findings are kept (raycls/reports/last_check.py), and no page. Raises what the parts raise.
    """
    info = open_dataset(reference).info
    champion = registry.champion(info.name)
    fits = champion is not None and _fits(load_card(registry.checkpoint(champion)), info)
    unchecked = f"{info.name} has no champion that could predict"
    if champion and not fits:
        unchecked = f"the champion {champion.reference} has other classes or another image size"
    with tempfile.TemporaryDirectory() as folder:
        run_check(
            reference,
            model=champion.reference if champion and fits else None,
            folds=0,
            preset_name="none",
            output=Path(folder) / "check.html",
            unchecked=unchecked,
        )


def _fits(card: ModelCard, info: DatasetInfo) -> bool:
    return card.classes == info.classes and card.image_size == info.image_size
