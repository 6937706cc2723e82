"""`raycls train | tune | evaluate | models | promote`: from a dataset to a registered model."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from raycls import progress
from raycls.cli.data import Dataset
from raycls.cli.output import AsJson, print_json, print_metrics, print_table

app = typer.Typer()

Preset = Annotated[str, typer.Option(help="fast, accurate or smoke")]
Network = Annotated[str | None, typer.Option(help="mlp, cnn or fastcnn (the default)")]
Workers = Annotated[
    int | None,
    typer.Option(min=1, help="training processes; default: one per GPU, or as many as CPUs and batch allow"),
]
Seed = Annotated[int, typer.Option(min=0, help="of weights, order and augmentation")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="change one setting, like lr=0.2; may be repeated"),
]
ModelName = Annotated[
    str | None, typer.Option("--model", help="name to register under; default: the dataset's")
]
Reference = Annotated[str, typer.Argument(help="NAME (its champion), NAME@ALIAS or NAME/VERSION")]


@app.command()
def train(
    dataset: Dataset,
    preset: Preset = "fast",
    network: Network = None,
    workers: Workers = None,
    seed: Seed = 0,
    settings: Settings = None,
    model: ModelName = None,
    as_json: AsJson = False,
) -> None:
    """Train a model under Ray Train and register it.

    Example: raycls train cifar10 --preset fast --set training.epochs=6 --set lr=0.2
    """
    with progress.bar("loading PyTorch"):
        from raycls.training.trainer import train

    config = _configuration(dataset, preset, network, seed, settings)
    result = train(dataset, config, workers=workers, model=model)
    assert result.version is not None
    if as_json:
        print_json({"model": result.version.reference, "run_id": result.run_id, **result.metrics})
        return
    print_metrics(result.metrics)
    print(f"registered {result.version.reference} (MLflow run {result.run_id})")
    print(f"serve it: raycls promote {result.version.name} {result.version.version} && raycls up")


@app.command()
def tune(
    dataset: Dataset,
    trials: Annotated[int, typer.Option(min=1, help="configurations to try")] = 8,
    max_epochs: Annotated[
        int | None, typer.Option(min=1, help="epochs of a trial; default: the preset's")
    ] = None,
    preset: Preset = "fast",
    network: Network = None,
    workers: Workers = None,
    seed: Seed = 0,
    settings: Settings = None,
    model: ModelName = None,
    as_json: AsJson = False,
) -> None:
    """Search batch size, learning rate and dropout; train the best in full; promote it if it is better.

    Example: raycls tune cifar10 --trials 8 --max-epochs 2 --set train_fraction=0.5
    """
    with progress.bar("loading PyTorch"):
        from raycls.training.tuner import search, train_best

    config = _configuration(dataset, preset, network, seed, settings)
    study = search(dataset, config, trials=trials, max_epochs=max_epochs, seed=seed)
    result, promoted = train_best(dataset, study, workers=workers, model=model)
    assert result.version is not None
    if as_json:
        print_json(
            {
                "study": study.name,
                "study_run_id": study.run_id,
                "trials": [trial.__dict__ for trial in study.trials],
                "best": study.best.__dict__,
                "model": result.version.reference,
                "promoted": promoted,
                "run_id": result.run_id,
                **result.metrics,
            }
        )
        return
    print_table(
        ("trial", *(path.split(".")[1] for path in study.best.values), "val_accuracy", "epochs"),
        [
            (
                trial.number,
                *(f"{value:.4g}" for value in trial.values.values()),
                "failed" if trial.val_accuracy is None else f"{trial.val_accuracy:.4f}",
                trial.epochs,
            )
            for trial in study.trials
        ],
    )
    print_metrics(result.metrics)
    print(f"registered {result.version.reference}{', the champion' if promoted else '; the champion stays'}")
    print(f"study {study.name} (MLflow run {study.run_id}), training run {result.run_id}")


@app.command()
def evaluate(
    model: Reference,
    split: Annotated[str, typer.Option(help="train, val or test")] = "test",
    as_json: AsJson = False,
) -> None:
    """Measure a registered model on a split of the dataset it was trained on.

    Example: raycls evaluate cifar10/3 --split test
    """
    with progress.bar("loading PyTorch"):
        from raycls import registry
        from raycls.data.packed import open_dataset
        from raycls.models.predictor import Predictor
        from raycls.training.evaluation import evaluate

    version = registry.resolve(model)
    predictor = Predictor.load(registry.checkpoint(version))
    result = evaluate(predictor, open_dataset(predictor.card.dataset), split)
    if as_json:
        print_json(
            {
                "model": version.reference,
                **result.metrics(split),
                "class_accuracy": result.class_accuracy,
                "confusion": result.confusion.tolist(),
            }
        )
        return
    print(f"{version.reference} on {predictor.card.dataset}/{split}")
    print_metrics(result.metrics(split))
    print_table(
        ("class", "accuracy"), [(name, f"{value:.4f}") for name, value in result.class_accuracy.items()]
    )


@app.command()
def models(as_json: AsJson = False) -> None:
    """List the registered models with their metrics and aliases.

    Example: raycls models
    """
    from raycls import registry

    versions = registry.list_models()
    if as_json:
        print_json(
            [
                {"model": v.reference, "aliases": v.aliases, "run_id": v.run_id, **v.metrics, "tags": v.tags}
                for v in versions
            ]
        )
    elif not versions:
        print("no models yet: make one with `raycls train cifar10`")
    else:
        print_table(
            ("model", "aliases", "val_accuracy", "test_accuracy", "dataset", "run"),
            [
                (
                    v.reference,
                    ", ".join(v.aliases),
                    f"{v.metrics['val_accuracy']:.4f}",
                    f"{v.metrics['test_accuracy']:.4f}",
                    v.fingerprint[:12],
                    v.run_id[:8],
                )
                for v in versions
            ],
        )


@app.command()
def promote(
    model: Annotated[str, typer.Argument(help="a registered model's name")],
    version: Annotated[str, typer.Argument(help="its version number")],
    alias: Annotated[str, typer.Option(help="the alias to give")] = "champion",
    as_json: AsJson = False,
) -> None:
    """Give a version the alias champion, which serving reads when it is deployed.

    Example: raycls promote cifar10 3
    """
    from raycls import registry

    promoted = registry.promote(model, version, alias)
    if as_json:
        print_json({"model": promoted.reference, "aliases": promoted.aliases})
    else:
        print(f"{promoted.reference} is now {alias}")


def _configuration(
    dataset: str, preset_name: str, network: str | None, seed: int, settings: list[str] | None
) -> Any:
    """The configuration a command asks for, printed in full on stderr as the start of the run's record."""
    from raycls.config import override, preset
    from raycls.data.packed import open_dataset

    config = preset(preset_name, open_dataset(dataset).manifest, network)
    config = override(config, [f"training.seed={seed}", *(settings or ())])
    progress.say(f"{dataset}: " + "  ".join(f"{key}={value}" for key, value in config.flat().items()))
    return config
