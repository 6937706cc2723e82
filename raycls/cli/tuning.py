"""`raycls tune`: run a study, train its winner and register it. `raycls tune show`: show a study's trials."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raycls import progress
from raycls.cli.data import Dataset
from raycls.cli.default_command import default_command
from raycls.cli.output import AsJson, print_json, print_metrics, print_table
from raycls.cli.training import (
    Init,
    Log,
    ModelName,
    Network,
    Preset,
    Seed,
    Settings,
    Weights,
    Workers,
    configuration,
    weights_path,
)
from raycls.errors import UsageError

if TYPE_CHECKING:
    from raycls.tuning.spec import Trial


app = typer.Typer(
    cls=default_command("run"),
    help="Search settings, train the best one in full, and promote the model if it beats the champion.\n\n"
    "Example: raycls tune cifar10 --trials 8 --max-epochs 2; `raycls tune run --help` shows all options",
)


@app.command()
def run(
    dataset: Dataset,
    trials: Annotated[
        int | None, typer.Option(min=1, help="number of trials; default: 8, or the whole grid")
    ] = None,
    max_epochs: Annotated[
        int | None, typer.Option(min=1, help="epochs of one trial; default: the preset's epochs")
    ] = None,
    search: Annotated[
        str | None,
        typer.Option(
            help="gp, tpe, random or grid; default: gp, or tpe for two objectives, over 250 trials or early stopping"
        ),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(help="stop bad trials early: asha, hyperband or none; default: none"),
    ] = None,
    objective: Annotated[
        str | None,
        typer.Option(
            help="accuracy, or accuracy,latency (also searches widths, or image sizes for networks of others, for the "
            "Pareto front); default: accuracy"
        ),
    ] = None,
    metric: Annotated[
        str | None,
        typer.Option(
            help="what the study goes by: accuracy, macro_f1, macro_recall or log_loss; default: accuracy, or "
            "macro_recall where a class has over five times the images of another one"
        ),
    ] = None,
    latency_budget_ms: Annotated[
        float | None,
        typer.Option(
            min=0, help="longest forward pass of the winner; default: the knee of the Pareto front decides"
        ),
    ] = None,
    latency_batch: Annotated[
        int | None, typer.Option(min=1, help="images in the forward pass that is timed; default: 1")
    ] = None,
    space: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="YAML file of the search space; default: batch size, learning rate, dropout"
        ),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="name of the study; default: the dataset's name and the time"),
    ] = None,
    resume: Annotated[
        str | None, typer.Option(metavar="STUDY", help="continue this interrupted study")
    ] = None,
    refit: Annotated[
        bool,
        typer.Option(
            "--refit", help="train the winner once more, on train and val together, and promote that version"
        ),
    ] = False,
    max_failures: Annotated[
        int | None,
        typer.Option(min=0, help="end the study when more trials than this failed; default: no limit"),
    ] = None,
    workers_per_trial: Annotated[
        int | None, typer.Option(min=1, help="training processes of one trial; default: 1")
    ] = None,
    cpus_per_trial: Annotated[
        int | None, typer.Option(min=1, help="CPU cores of each training process; default: 1")
    ] = None,
    gpus_per_trial: Annotated[
        float | None,
        typer.Option(
            min=0, help="GPUs of each training process, like 0.25; default: 1 if the cluster has GPUs"
        ),
    ] = None,
    at_once: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="trials at the same time; more than fit let Ray's autoscaler start nodes; default: as many as fit now",
        ),
    ] = None,
    preset: Preset = None,
    network: Network = None,
    workers: Workers = None,
    seed: Seed = None,
    settings: Settings = None,
    init: Init = None,
    weights: Weights = None,
    model: ModelName = None,
    log: Log = None,
    as_json: AsJson = False,
) -> None:
    """Search batch size, learning rate and dropout (or --space), train the winner in full, and promote it if it beats
    the champion. `raycls tune show STUDY` shows the trials of a study.

    Example: raycls tune cifar10 --trials 8 --max-epochs 2 --set train_fraction=0.5
    """
    with progress.bar("loading PyTorch and Ray"):
        from raycls.tuning import space as spaces
        from raycls.tuning import study as studies
        from raycls.tuning.plan import plan

    asked = {
        "trials": trials,
        "max_epochs": max_epochs,
        "search": search,
        "scheduler": scheduler,
        "seed": seed,
        "workers_per_trial": workers_per_trial,
        "cpus_per_trial": cpus_per_trial,
        "gpus_per_trial": gpus_per_trial,
        "at_once": at_once,
        "max_failures": max_failures,
        "objective": objective,
        "latency_batch": latency_batch,
        "latency_budget_ms": latency_budget_ms,
        "workers": workers,
        "init": init,
        "model": model,
        "log": log,
        "refit": refit or None,
    }
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    if resume:
        if given or any((space, study, preset, network, settings, weights, metric)):
            raise UsageError("--resume STUDY uses the settings of that study: leave out all other options")
        outcome = studies.resume(dataset, resume)
    else:
        metrics = [f"training.metric={metric}"] if metric else []
        weights = weights_path(weights, network, init)
        on_gpus = False if gpus_per_trial == 0 else None
        settings = [*(settings or ()), *metrics]
        config = configuration(dataset, preset, network, seed, settings, init, weights, on_gpus)
        searched = spaces.load(space, config) if space else None
        job = plan(dataset, config, space=searched, weights=weights, **given)
        outcome = studies.tune(job, study)
    found, training = outcome.study, outcome.training
    assert training.version is not None
    if as_json:
        print_json(
            {
                "study": found.name,
                "study_run_id": found.run_id,
                "trials": [trial.__dict__ for trial in found.trials],
                "best": found.best.__dict__,
                "model": training.version.reference,
                "promoted": outcome.promoted,
                "run_id": training.run_id,
                **training.metrics,
            }
        )
        return
    _print_trials(found.trials)
    print(f"the winner is trial #{found.best.number}; trained in full:")
    print_metrics(training.metrics)
    champion = ", the champion" if outcome.promoted else ", not promoted"
    print(f"registered {training.version.reference}{champion}")
    print(f"study {found.name} (MLflow run {found.run_id}), training run {training.run_id}")


@app.command()
def show(
    study: Annotated[str, typer.Argument(help="a study's name")],
    report: Annotated[bool, typer.Option("--report", help="also write an HTML page with plots")] = False,
    output: Annotated[Path | None, typer.Option(help="file for the page; default: STUDY.html")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the trials of a study, running or finished.

    Example: raycls tune show pets-widths --report
    """
    from raycls.reports.study_report import in_short, write_report
    from raycls.tuning import record

    if output and not report:
        raise UsageError("--output names the file of the report: add --report")
    found = record.load(study)
    trials, winner = record.trials_of(found), record.winner_of(found)
    page = write_report(study, output or Path(f"{study}.html")) if report else None
    if as_json:
        document = {
            "study": study,
            "trials": [trial.__dict__ for trial in trials],
            "winner": winner.number if winner else None,
        }
        print_json(document | ({"report": str(page)} if page else {}))
        return
    _print_trials(trials)
    if any(trial.scored for trial in trials):
        print("\n".join(in_short(trials, winner)))
    if page:
        print(f"report: {page}")


def _print_trials(trials: tuple[Trial, ...]) -> None:
    from raycls.tuning.spec import METRIC, shown

    timed = any(trial.latency_ms is not None for trial in trials)
    paths = list(dict.fromkeys(path for trial in trials for path in trial.values))
    print_table(
        (
            "trial",
            *(path.split(".")[1] for path in paths),
            *(("latency_ms",) if timed else ()),
            trials[0].metric if trials else METRIC,
            "epochs",
            "seconds",
            "state",
        ),
        [
            (
                trial.number,
                *(_short(trial.values.get(path, "")) for path in paths),
                *((_short(trial.latency_ms),) if timed else ()),
                shown(trial.metric, trial.score),
                trial.epochs,
                f"{trial.seconds:.1f}",
                f"{trial.state}: {trial.reason}" if trial.reason else trial.state,
            )
            for trial in trials
        ],
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
