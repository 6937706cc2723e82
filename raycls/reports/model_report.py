"""Writes the page of `raycls evaluate MODEL --report`, and logs its parts to the model's MLflow run.

    scores = score(predictor, match(predictor.card, open_dataset("cifar10"), "test"))
    write_report(version, predictor, scores, Path("report.html"))

Other modules of this package compute the parts of the report. This module calls them in order. The artifacts are in
report/DATASET-SPLIT/ of the training run: index.html, report.json and all pictures.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from raycls import progress, registry, tracking
from raycls.data.packed import PackedDataset
from raycls.data.versions import open_by_fingerprint
from raycls.engines.build import best_device
from raycls.engines.examples import Examples, match
from raycls.engines.predictor import Predictor
from raycls.errors import RayclsError, UsageError
from raycls.models import checkpoint
from raycls.models.card import ModelCard
from raycls.registry import ModelVersion
from raycls.reports import attribution, charts, model_page
from raycls.reports.duplicates import Duplicates, near_duplicates
from raycls.reports.figures import confidently_wrong, figures, rightly_seen
from raycls.reports.model_page import Report, Shown
from raycls.reports.pictures import coloured, mosaic, overlay, png
from raycls.reports.robustness import Robustness, robustness
from raycls.training.curves import Finding, Fit, diagnose
from raycls.training.evaluation import Evaluation, Scores, score

TRAIN_IMAGES = 5000  # training images for the accuracy without augmentation
WRONG, CAM, MAPS, TWINS = 24, 8, 2, 12  # images that the page shows in each section
CELL = 96  # side of an image in a mosaic, in pixels

Pictures = dict[str, bytes]


def write_report(version: ModelVersion, predictor: Predictor, scores: Scores, output: Path) -> Path:
    """Write the page to `output`, log page, figures and pictures to the model's MLflow run, and return `output`.

    Raises UsageError if `output` is not a file in an existing folder. Raises UnknownDatasetError if the model's own
    dataset is not prepared on this machine. Raises RayclsError if the page cannot be written. Raises RegistryError if
    MLflow does not accept the artifacts; the page exists in that case.
    """
    if not output.parent.is_dir() or output.is_dir():
        raise UsageError(f"--output {output} is no file in a folder that exists")
    pictures: Pictures = {}
    own = open_by_fingerprint(*predictor.card.learned_from)
    network = checkpoint.load(registry.checkpoint(version))[0].to(best_device())
    report = _measure(version, predictor, network, scores, own, pictures)
    html = model_page.render(report, pictures)
    try:
        output.write_text(html, encoding="utf-8")
    except OSError as error:
        raise RayclsError(f"cannot write the report {output}: {error.strerror}; choose --output") from None
    with tempfile.TemporaryDirectory() as folder:
        for name, data in {**pictures, "index.html": html.encode()}.items():
            path = Path(folder) / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)
        run = tracking.Run(version.run_id)
        where = f"report/{scores.examples.dataset}-{scores.examples.split}"
        run.log_directory(Path(folder), where)
        run.log_json(report.as_json(), f"{where}/report.json")
    return output


def _measure(
    version: ModelVersion,
    predictor: Predictor,
    network: nn.Module,
    scores: Scores,
    own: PackedDataset,
    pictures: Pictures,
) -> Report:
    """Return the content of the page, and add its PNG files to pictures. network: the predictor's network."""
    examples, card = scores.examples, predictor.card
    trained = match(card, own, "train")
    measured = figures(scores)
    history = tracking.history(version.run_id)
    fit = _fit(predictor, own, trained)
    damage = robustness(predictor, examples)
    seen_in_training = examples.dataset == own.info.name and examples.split in card.learned_splits
    twins = None if seen_in_training else near_duplicates(examples, trained, mirrored=own.info.mirrorable)
    with progress.bar("drawing the report"):
        _add_charts(pictures, "reliability", charts.reliability(measured))
        _add_charts(pictures, "confusion", charts.confusion(measured))
        _add_charts(pictures, "robustness", charts.robustness(damage))
        if history:
            for name, chart in charts.learning_curves(history, fit).items():
                _add_charts(pictures, f"curve-{name}", chart)
        wrong, right = confidently_wrong(scores, WRONG), rightly_seen(scores, CAM)
        looked_up = examples.pixels(np.concatenate([right, wrong])[:MAPS])
        layers = attribution.spatial_layers(network, attribution.fed(network, card, looked_up))
        cam = attribution.cam_of(network, card, layers)
        filters = attribution.first_filters(network, card.image_size)
        if filters:
            cells = list((filters[1] * 255).round().astype(np.uint8))
            pictures["filters.png"] = png(mosaic(cells, cell=48, columns=8))
        return Report(
            version=version,
            card=card,
            parameters=sum(parameter.numel() for parameter in network.parameters()),
            examples=examples,
            trained_images=_trained_images(own, card, examples),
            figures=measured,
            history=history,
            fit=fit,
            findings=_findings(history, fit, card),
            robustness=damage,
            duplicates=twins,
            clean_accuracy=_accuracy_without(scores, twins) if twins else None,
            wrong=_images(pictures, "wrong", examples, wrong, _captions(scores, wrong)),
            cam_layer=cam.layer.name if cam else None,
            cam_right=_cams(pictures, "cam_right", cam, scores, right, truth=False),
            cam_wrong=_cams(pictures, "cam_wrong", cam, scores, wrong[:CAM], truth=True),
            filters_layer=filters[0] if filters else None,
            feature_maps=_feature_maps(pictures, layers, looked_up),
            damaged=_damaged(pictures, damage),
            twins=_twins(pictures, examples, trained, twins) if twins else [],
            made=time.strftime("%Y-%m-%d %H:%M"),
        )


def _fit(predictor: Predictor, own: PackedDataset, trained: Examples) -> Fit:
    """Return the figures of the kept weights on the model's own training images and on unseen ones: val, or test."""

    def on(examples: Examples) -> Evaluation:
        return score(predictor, examples).evaluation()

    unseen = match(predictor.card, own, predictor.card.unseen)
    train, val = on(trained.only(trained.drawn(TRAIN_IMAGES))), on(unseen)
    return Fit(
        epoch=int(predictor.card.metrics.get("epoch", 0)),  # an ensemble has none
        train_accuracy=train.accuracy,
        train_loss=train.loss,
        val_accuracy=val.accuracy,
        val_loss=val.loss,
        val_images=int(val.confusion.sum()),
        classes=len(val.classes),
    )


def _findings(history: list[dict[str, float]], fit: Fit, card: ModelCard) -> list[Finding]:
    if card.unseen == "val":
        return diagnose(history, fit)
    told = (
        "The model learned the split val: the figures of validation images here are those of the split test."
    )
    return [*diagnose([], fit), Finding("val was learned", told)]


def _trained_images(own: PackedDataset, card: ModelCard, examples: Examples) -> dict[str, int]:
    learned = (own.info.class_counts[split] for split in card.learned_splits)
    counts = dict(zip(own.info.classes, map(sum, zip(*learned, strict=True)), strict=True))
    return {name: counts.get(name, 0) for name in examples.classes}


def _accuracy_without(scores: Scores, twins: Duplicates) -> float | None:
    """Return the accuracy on the examples without a near-duplicate, or None if all have one."""
    kept = torch.ones(len(scores.labels), dtype=torch.bool)
    kept[[pair.example for pair in twins.pairs]] = False
    right = (scores.predicted == scores.labels)[kept]
    return right.double().mean().item() if len(right) else None


def _captions(scores: Scores, chosen: np.ndarray) -> list[str]:
    names, sure = scores.examples.classes, scores.probabilities.amax(1)
    return [
        f"{names[label]}, taken for {names[said]} ({sure[i]:.0%})"
        if label != said
        else f"{names[said]} ({sure[i]:.0%})"
        for i in chosen
        if (label := int(scores.labels[i]), said := int(scores.predicted[i]))
    ]


def _add_charts(pictures: Pictures, name: str, chart: charts.Chart) -> None:
    pictures[f"charts/{name}-light.png"], pictures[f"charts/{name}-dark.png"] = chart.light, chart.dark


def _images(
    pictures: Pictures, folder: str, examples: Examples, chosen: np.ndarray, captions: Iterable[str]
) -> list[Shown]:
    """Add one picture per example, and return them with their captions."""
    return [
        _show(pictures, folder, png(pixels), caption)
        for pixels, caption in zip(examples.pixels(chosen), captions, strict=True)
    ]


def _show(pictures: Pictures, folder: str, data: bytes, caption: str) -> Shown:
    name = f"{folder}/{sum(other.startswith(f'{folder}/') for other in pictures) + 1:02}.png"
    pictures[name] = data
    return Shown(picture=name, caption=caption)


def _cams(
    pictures: Pictures,
    folder: str,
    cam: attribution.GradCAM | None,
    scores: Scores,
    chosen: np.ndarray,
    *,
    truth: bool,
) -> list[Shown]:
    """Return each image beside its heat map for the answer. With truth, add the heat map for the true class."""
    if cam is None or not len(chosen):
        return []
    pixels = scores.examples.pixels(chosen)
    columns = torch.from_numpy(scores.examples.columns)
    asked = [scores.predicted[chosen], scores.labels[chosen]] if truth else [scores.predicted[chosen]]
    heats = [cam(pixels, columns[labels]) for labels in asked]
    return [
        _show(
            pictures,
            folder,
            png(mosaic([image, *(overlay(image, heat[i]) for heat in heats)], cell=2 * CELL)),
            caption,
        )
        for i, (image, caption) in enumerate(zip(pixels, _captions(scores, chosen), strict=True))
    ]


def _feature_maps(pictures: Pictures, layers: list[attribution.Layer], pixels: np.ndarray) -> list[Shown]:
    """Return one row per image and layer: the image, then the channels."""
    return [
        _show(
            pictures,
            "feature_maps",
            png(mosaic([image, *coloured(maps[i])], cell=CELL)),
            f"{name}: {maps.shape[1]} of {channels} channels, {maps.shape[-1]} × {maps.shape[-1]}",
        )
        for i, image in enumerate(pixels)
        for name, channels, maps in attribution.feature_maps(layers)
    ]


def _damaged(pictures: Pictures, damage: Robustness) -> list[Shown]:
    return [
        _show(
            pictures,
            "damaged",
            png(mosaic([damage.shown, *row.shown], cell=CELL)),
            f"{row.name}: none to strong",
        )
        for row in damage.rows
    ]


def _twins(pictures: Pictures, examples: Examples, trained: Examples, twins: Duplicates) -> list[Shown]:
    """Return the least similar pairs first, because they show whether the threshold is right."""
    shown = []
    for pair in twins.pairs[::-1][:TWINS]:
        mine = examples.pixels(np.array([pair.example]))[0]
        theirs = trained.pixels(np.array([pair.trained]))[0]
        names = examples.classes[examples.labels[pair.example]], trained.classes[trained.labels[pair.trained]]
        label = " / ".join(dict.fromkeys(names))
        data = png(mosaic([mine, theirs], cell=CELL))
        shown.append(_show(pictures, "near_duplicates", data, f"{label}, {pair.correlation:.3f}"))
    return shown
