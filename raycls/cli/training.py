"""`raycls train`: train a model and register it. Also the options that `raycls tune` shares."""

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
        help="mlp, cnn, fastcnn or a torchvision network such as resnet18; default: fastcnn, or --init's network"
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="training processes; default: one per GPU or CPU core, fewer if the batch is too small for them",
    ),
]
UseGpu = Annotated[
    bool | None,
    typer.Option(
        "--use-gpu/--no-gpu",
        help="a GPU for each worker, for which Ray's autoscaler may start nodes, or none; default: GPUs that are free "
        "now, else CPUs",
    ),
]
Seed = Annotated[
    int | None, typer.Option(min=0, help="seed of weights, image order and augmentation; default: 0")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="change one setting, like lr=0.2; can be repeated"),
]
ModelName = Annotated[
    str | None, typer.Option("--model", help="name of the registered model; default: the dataset's name")
]
Init = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="start from the weights of this registered model: NAME[/VERSION]"),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|imagenet", help="start from the weights in this file, or from torchvision's weights"
    ),
]


@app.command()
def train(
    dataset: Dataset,
    preset: Preset = None,
    network: Network = None,
    workers: Workers = None,
    use_gpu: UseGpu = None,
    seed: Seed = None,
    settings: Settings = None,
    init: Init = None,
    weights: Weights = None,
    model: ModelName = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="continue this interrupted MLflow run (name or id)"),
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
                "--resume RUN uses the settings of that run: leave out all options but --workers, --use-gpu and --json"
            )
        result = trainer.resume(dataset, resume, workers=workers, use_gpu=use_gpu)
    else:
        weights = weights_path(weights, init)
        config = configuration(dataset, preset, network, seed, settings, init, weights)
        result = trainer.train(
            dataset, config, workers=workers, use_gpu=use_gpu, model=model, init=init, weights=weights
        )
    assert result.version is not None
    if as_json:
        print_json({"model": result.version.reference, "run_id": result.run_id, **result.metrics})
        return
    print_metrics(result.metrics)
    print(f"registered {result.version.reference} (MLflow run {result.run_id})")
    print(f"to serve it: raycls promote {result.version.name} {result.version.version} && raycls up")


def configuration(
    dataset: str,
    preset_name: str | None,
    network: str | None,
    seed: int | None,
    settings: list[str] | None,
    init: str | None = None,
    weights: str | None = None,
) -> Any:
    """Return the configuration that a command's options describe, and print all of it on stderr."""
    from raycls import registry
    from raycls.data.versions import open_dataset
    from raycls.models.card import load_card
    from raycls.training.recipes import configured

    card = load_card(registry.checkpoint(registry.resolve(init))) if init else None
    config = configured(
        open_dataset(dataset).info,
        preset_name or "fast",
        network=network,
        settings=[f"training.seed={seed or 0}", *(settings or ())],
        init=card,
        pretrained=weights is not None,
    )
    progress.say(f"{dataset}: " + "  ".join(f"{key}={value}" for key, value in config.flat().items()))
    return config


def weights_path(weights: str | None, init: str | None) -> str | None:
    """Return how workers name a file of weights, or "imagenet". They run in other directories, and on other nodes."""
    if weights and init:
        raise UsageError("--init and --weights both set the first weights: leave one out")
    if weights is None or weights == "imagenet":
        return weights
    path = Path(weights).absolute()
    if not path.is_file():
        raise UsageError(
            f"no file of weights {weights}: give --weights a .pt, .pth or .safetensors file, or imagenet"
        )
    from raycls.training.shared_weights import shared

    return shared(str(path))
