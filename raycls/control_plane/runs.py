"""Routes about trainings and studies: what MLflow and Optuna know of them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from raycls import tracking
from raycls.control_plane import served
from raycls.control_plane.body import wanted_int
from raycls.control_plane.route import ControlRoute
from raycls.data.layout import versions_of
from raycls.data.versions import list_datasets, open_dataset
from raycls.errors import DataError, UnknownRecordError
from raycls.serving.replica.answer import json_response
from raycls.training.curves import FINDINGS, Finding, Fit, diagnose

PAGE = 50  # runs on a page
SHOWN = ("kind", "study", "trial", "retraining", "dataset_version")  # tags


async def list_all(request: Request) -> Response:
    query = request.query_params
    name = query.get("dataset") or await _usual()
    page = wanted_int(query, "page", 1)

    def found() -> dict[str, Any]:
        # The trials of a study are told with the study.
        runs = tracking.find_runs(name, "tags.kind != 'trial'")
        shown = [_shown(run) for run in runs[(page - 1) * PAGE : page * PAGE]]
        return {"dataset": name, "runs": shown, "total": len(runs)}

    return json_response(await run_in_threadpool(found))


async def _usual() -> str:
    """Return the dataset of the served model, or where none is served, the first that there is."""
    found = await served.dataset_or_none()
    return found or next((info.name for info in await run_in_threadpool(list_datasets)), "")


async def show(request: Request) -> Response:
    def found() -> dict[str, Any]:
        run = tracking.find_run(request.path_params["id"])
        if run is None:
            raise UnknownRecordError("there is no such run: list those that exist")
        history = [_finite(row) for row in tracking.history(run.info.run_id)]
        if run.info.status == "RUNNING":  # what was told while it trains; the rest is only known at the end
            findings = json.loads(run.data.tags.get(FINDINGS, "[]"))
        else:
            findings = [asdict(finding) for finding in _findings(run, history)]
        return {
            **_shown(run),
            "params": run.data.params,
            "history": history,
            "findings": findings,
            "mlflow": tracking.page_of(run),
        }

    return json_response(await run_in_threadpool(found))


async def show_study(request: Request) -> Response:
    def found() -> dict[str, Any]:
        from raycls.errors import StudyError
        from raycls.reports.study_report import in_short
        from raycls.tuning import record
        from raycls.tuning.pareto import pareto_front

        name = request.path_params["name"]
        try:
            study = record.load(name)
        except StudyError as error:
            raise UnknownRecordError(str(error)) from None
        winner, trials = record.winner_of(study), record.trials_of(study)
        told = in_short(trials, winner) if any(trial.scored for trial in trials) else []
        return {
            "name": name,
            "run_id": record.run_of(study),
            "trials": [asdict(trial) | {"told": trial.told()} for trial in trials],
            "winner": winner.number if winner else None,
            "front": [trial.number for trial in pareto_front(trials)],
            "told": told,
        }

    return json_response(await run_in_threadpool(found))


def _findings(run: Any, history: list[dict[str, float]]) -> list[Finding]:
    """Return what the curves of a training say, in words. Empty for a study, before the first epoch has ended, where a
    figure is no number, and where its dataset is not here."""
    figures = ("train_loss", "train_accuracy", "val_loss", "val_accuracy")
    params = run.data.params
    if not history or not all(name in row for row in history for name in figures):
        return []
    name, version = params.get("dataset", ""), params.get("dataset_version", "")
    if not (version.isdigit() and int(version) in versions_of(name)):
        return []
    try:
        info = open_dataset(f"{name}@{version}").info
    except DataError:  # it is damaged
        return []
    kept = max(history, key=lambda row: row["val_accuracy"])
    fit = Fit(
        epoch=int(kept["epoch"]),
        **{name: kept[name] for name in figures},
        val_images=info.counts["val"],
        classes=len(info.classes),
        augmented=True,
    )
    return diagnose(history, fit)


def _finite(metrics: dict[str, float]) -> dict[str, float]:
    """Return the metrics that are numbers: JSON has no NaN, as the loss of a training that fails may be."""
    return {name: value for name, value in metrics.items() if math.isfinite(value)}


def _shown(run: Any) -> dict[str, Any]:
    """Return what people want to know of a run of MLflow."""
    return {
        "id": run.info.run_id,
        "name": run.info.run_name,
        "status": run.info.status,
        "started": run.info.start_time / 1000,
        "ended": run.info.end_time / 1000 if run.info.end_time else None,
        "metrics": _finite(run.data.metrics),
        **{name: run.data.tags.get(name, "") for name in SHOWN},
    }


ROUTES = [
    ControlRoute(
        "GET",
        "/runs",
        "admin",
        list_all,
        "List a page of the trainings and studies of a dataset, the newest first",
        queries={"dataset": "default: that of the served model", "page": "from 1"},
    ),
    ControlRoute("GET", "/runs/{id}", "admin", show, "Show one run: settings, and figures of each epoch"),
    ControlRoute("GET", "/studies/{name}", "admin", show_study, "Show the trials of a study"),
]
