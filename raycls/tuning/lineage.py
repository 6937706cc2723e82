"""Traces where a model version comes from, and checks each step against the present data.

    for link in trace(registry.resolve("cifar10/3")):
        print(link.name, link.value, link.state, link.told)

The chain is dataset → study → trial → training run → checkpoint. A model that was trained without a study has no study
step and no trial step. An ensemble has a step for each member.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from raycls import registry, tracking
from raycls.config import Config
from raycls.data.layout import versions_of
from raycls.data.versions import open_by_fingerprint
from raycls.errors import RayclsError, UnknownDatasetError
from raycls.models.card import ENSEMBLE, ModelCard, load_card
from raycls.registry import ModelVersion
from raycls.tracking.resumable import FOLD, FOLD_RUNS, REFIT, SOUP
from raycls.tuning import record
from raycls.tuning.space import encoded

LR_FACTOR = "lr_factor"  # tag of a model version: its learning rate divided by that of its trial


@dataclass(frozen=True)
class LineageStep:
    """One step of the chain. `absent`: it cannot be checked on this machine. `broken`: it differs from the record."""

    name: str
    value: str
    state: Literal["verified", "absent", "broken"]
    told: str = ""


def trace(version: ModelVersion) -> list[LineageStep]:
    """Return the chain, from the dataset to the checkpoint. Raises RegistryError if MLflow does not answer."""
    checkpoint, card = _checkpoint(version)
    links = [_dataset(version, card)]
    if "study" in version.tags:
        links += _study(version, card)
    for tag in (ENSEMBLE, SOUP):
        members = version.tags[tag].split(", ") if tag in version.tags else []
        links += [_member(part) for part in members]
    if REFIT in version.tags:
        links.append(_member(version.tags[REFIT], "refit of"))
    links += [_fold(run_id) for run_id in version.tags.get(FOLD_RUNS, "").split()]
    return [*links, _run(version), checkpoint]


def _checkpoint(version: ModelVersion) -> tuple[LineageStep, ModelCard | None]:
    try:
        directory = registry.checkpoint(version)
        card = load_card(directory)
    except RayclsError as error:
        return LineageStep("checkpoint", f"sha256 {version.sha256}", "broken", str(error)), None
    return LineageStep("checkpoint", f"sha256 {version.sha256}", "verified", str(directory)), card


def _dataset(version: ModelVersion, card: ModelCard | None) -> LineageStep:
    name = card.dataset if card else version.name
    value = f"{name}@{card.dataset_version if card else '?'}, fingerprint {version.fingerprint}"
    if card and card.dataset_fingerprint != version.fingerprint:
        return LineageStep("dataset", value, "broken", f"the checkpoint names {card.dataset_fingerprint}")
    absent = LineageStep("dataset", value, "absent", "not on this machine")
    if not versions_of(name):  # whoever looks at a chain pulls no dataset
        return absent
    try:
        open_by_fingerprint(name, version.fingerprint)
    except UnknownDatasetError:
        return absent
    return LineageStep("dataset", value, "verified", "on this machine, with the same images")


def _study(version: ModelVersion, card: ModelCard | None) -> list[LineageStep]:
    name, number = version.tags["study"], version.tags["trial"]
    try:
        trials = record.read(name)
    except RayclsError as error:
        return [LineageStep("study", name, "absent", str(error)), LineageStep("trial", number, "absent")]
    study = LineageStep("study", name, "verified", f"{len(trials)} trials")
    trial = next((trial for trial in trials if str(trial.number) == number), None)
    if trial is None or not trial.scored:
        return [study, LineageStep("trial", number, "broken", "the study has no such trial that ended well")]
    if card is None:
        return [study, LineageStep("trial", number, "absent", "its values are in the checkpoint")]
    flat = Config.model_validate(card.config).flat()
    # The winner is trained on all images, while its trial may use a part. Its learning rate is scaled to match.
    expected = {path: value for path, value in trial.values.items() if path != "training.train_fraction"}
    if isinstance(lr := expected.get("optim.lr"), int | float):
        expected["optim.lr"] = lr * float(version.tags.get(LR_FACTOR, 1))
    other = [path for path, value in expected.items() if encoded(flat[path]) != value]
    if other:
        return [
            study,
            LineageStep("trial", number, "broken", f"the model was trained with another {', '.join(other)}"),
        ]
    return [
        study,
        LineageStep("trial", number, "verified", f"{trial.told()}  {trial.told_score}"),
    ]


def _member(written: str, name: str = "member") -> LineageStep:
    """Return whether another version, such as a member of an ensemble, is what it was. written: with its digest."""
    reference, _, sha256 = written.partition(" sha256:")
    try:
        now = registry.resolve(reference)
    except RayclsError as error:
        return LineageStep(name, reference, "absent", str(error))
    if now.sha256 != sha256:
        return LineageStep(name, reference, "broken", f"it was {sha256}, and is {now.sha256}")
    return LineageStep(name, reference, "verified")


def _fold(run_id: str) -> LineageStep:
    """Return whether MLflow still has the training of a fold, whose model is in the ensemble."""
    found = tracking.find_run(run_id)
    if found is None:
        return LineageStep("fold", run_id, "absent", "MLflow has no such run any more")
    return LineageStep("fold", run_id, "verified", f"fold {found.data.tags[FOLD]}, {found.info.run_name}")


def _run(version: ModelVersion) -> LineageStep:
    found = tracking.find_run(version.run_id)
    if found is None:
        return LineageStep("run", version.run_id, "broken", "MLflow has no such run")
    if found.data.tags.get("dataset_fingerprint") != version.fingerprint:
        return LineageStep("run", version.run_id, "broken", "it was trained on another dataset")
    return LineageStep(
        "run", version.run_id, "verified", f"{found.info.run_name}, {found.info.status.lower()}"
    )
