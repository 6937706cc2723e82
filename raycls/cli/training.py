"""`raycls train`: from a dataset to a registered model; and the options that `raycls tune` shares with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from raycls import progress
from raycls.cli.data import Dataset
from raycls.cli.output import AsJson, print_json, print_metrics
from raycls.errors import UsageError

app = typer.Typer()

Preset = Annotated[str | None, typer.Option(help="smoke, quick, fast (the default), strong or accurate")]
Network = Annotated[
    str | None,
    typer.Option(
        help="a network's name, like mlp, cnn, fastcnn or resnet18; default: fastcnn, or that of --init"
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1, help="training processes; default: one per GPU, or per CPU, as far as the batch feeds them"
    ),
]
Seed = Annotated[int | None, typer.Option(min=0, help="of weights, order and augmentation; default: 0")]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="change one setting, like lr=0.2; may be repeated"),
]
ModelName = Annotated[
    str | None, typer.Option("--model", help="name to register under; default: the dataset's")
]
Init = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="a registered model whose weights to start from: NAME[/VERSION]"),
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="PATH|imagenet", help="a file of weights to start from, or torchvision's own"),
]


@app.command()
def train(
    dataset: Dataset,
    preset: Preset = None,
    network: Network = None,
    workers: Workers = None,
    seed: Seed = None,
    settings: Settings = None,
    init: Init = None,
    weights: Weights = None,
    model: ModelName = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="go on with this MLflow run (name or id), which was broken off"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train a model under Ray Train and register it.

    Example: raycls train cifar10 --preset fast --set training.epochs=6 --set lr=0.2
    """
    with progress.bar("loading PyTorch"):
        from raycls.training import trainer

    if resume:
        if preset or network or seed is not None or settings or init or weights or model:
            raise UsageError(
                "--resume RUN goes on as the run began: leave out all options but --workers and --json"
            )
        result = trainer.resume(dataset, resume, workers=workers)
    else:
        weights = weights_path(weights, init)
        config = configuration(dataset, preset, network, seed, settings, init)
        result = trainer.train(dataset, config, workers=workers, model=model, init=init, weights=weights)
    assert result.version is not None
    if as_json:
        print_json({"model": result.version.reference, "run_id": result.run_id, **result.metrics})
        return
    print_metrics(result.metrics)
    print(f"registered {result.version.reference} (MLflow run {result.run_id})")
    print(f"serve it: raycls promote {result.version.name} {result.version.version} && raycls up")


def configuration(
    dataset: str,
    preset_name: str | None,
    network: str | None,
    seed: int | None,
    settings: list[str] | None,
    init: str | None = None,
) -> Any:
    """The configuration a command asks for, printed in full on stderr as the start of the run's record."""
    from raycls.config import override, preset
    from raycls.data.packed import open_dataset

    manifest = open_dataset(dataset).manifest
    own: list[str] = []
    if init and network is None:
        network, own = _network_of(init)
    config = preset(preset_name or "fast", manifest, network)
    config = override(config, [f"training.seed={seed or 0}", *own, *(settings or ())])
    progress.say(f"{dataset}: " + "  ".join(f"{key}={value}" for key, value in config.flat().items()))
    return config


def _network_of(init: str) -> tuple[str, list[str]]:
    """The name of the registered model's network, and its widths as a setting where it has any."""
    from raycls import registry
    from raycls.models.card import load_card

    card = load_card(registry.checkpoint(registry.resolve(init)))
    widths = card.arguments.get("widths")
    return card.network, [f"network.widths={list(widths)}"] if widths else []


def weights_path(weights: str | None, init: str | None) -> str | None:
    """The file's absolute path, since workers run in directories of their own; or torchvision's name."""
    if weights and init:
        raise UsageError("--init and --weights both say where the weights come from: leave one out")
    if weights is None or weights == "imagenet":
        return weights
    path = Path(weights).absolute()
    if not path.is_file():
        raise UsageError(
            f"no file of weights {weights}: give --weights a .pt, .pth or .safetensors, or imagenet"
        )
    return str(path)
