"""`raycls train`: train a model and register it. Also the options that `raycls tune` shares."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raycls import progress
from raycls.cli.data import Dataset
from raycls.cli.output import AsJson, print_json, print_metrics, print_table
from raycls.errors import UsageError

if TYPE_CHECKING:
    from raycls.data.packed import DatasetInfo
    from raycls.training.filing import TrainingResult

app = typer.Typer()

Preset = Annotated[
    str | None, typer.Option(help="smoke, probe, quick, fast (the default), strong or accurate")
]
Network = Annotated[
    str | None,
    typer.Option(
        help="fastcnn (the default), or another one that `raycls networks` lists, such as resnet18 or "
        "timm/convnext_tiny.fb_in22k; with --init, that model's"
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
    str | None,
    typer.Option(
        "--model",
        help="name of the registered model; default: that of the versions it is made of, or the dataset's",
    ),
]
Init = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="start from the weights of this registered model: NAME[/VERSION]"),
]
Weights = Annotated[
    str | None,
    typer.Option(
        metavar="PATH|pretrained|none",
        help="start from the weights in this file (or in a folder, in the file that has the network's name), from the "
        "network's public weights, or from random ones; default: random, and pretrained for timm's networks",
    ),
]
Log = Annotated[
    list[str] | None,
    typer.Option(
        metavar="TOOL",
        help="log to this tool too, beside MLflow: wandb (Weights & Biases); default: MLflow alone",
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
    log: Log = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="tell where the time of one epoch goes, and keep a trace of it")
    ] = False,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=20,
            help="divide train and val into so many parts, train a model on all but each, and register their ensemble",
        ),
    ] = None,
    refit: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="train this registered model again with its settings, on train and val together: NAME[/VERSION]",
        ),
    ] = None,
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
        from raycls.data.layout import parse
        from raycls.tracking import resumable
        from raycls.training import folds as over_folds
        from raycls.training import trainer
        from raycls.training.refit import refit as train_again

    where: dict[str, Any] = {"workers": workers, "use_gpu": use_gpu}
    given = preset or network or seed is not None or settings or init or weights or folds
    if resume:
        if given or model or refit or log or profile:
            raise UsageError(
                "--resume RUN uses the settings of that run: leave out all options but --workers, --use-gpu and --json"
            )
        name = parse(dataset)[0]
        if not resumable.exists(resumable.FoldsSpec, resume, name):
            one = resumable.find(resumable.TrainingSpec, resume, name).spec.lineage
            resume = one.get(resumable.FOLDS, resume)  # of one fold: the run over all of them goes on
        is_of_folds = resumable.exists(resumable.FoldsSpec, resume, name)
        result = (over_folds if is_of_folds else trainer).resume(dataset, resume, **where)
    elif refit:
        if given or log or profile:
            raise UsageError(
                "--refit MODEL uses the settings of that model: leave out all options but --model, --workers, "
                "--use-gpu and --json"
            )
        result = train_again(refit, dataset_name=parse(dataset)[0], model=model, **where)
    else:
        weights = weights_path(weights, network, init)
        config = configuration(dataset, preset, network, seed, settings, init, weights, use_gpu)
        start: dict[str, Any] = {"model": model, "init": init, "weights": weights, "log": log or (), **where}
        if folds and profile:
            raise UsageError("--profile is of one training: leave out --folds")
        if folds:
            result = over_folds.train_folds(dataset, config, folds, **start)
        else:
            result = trainer.train(dataset, config, profile=profile, **start)
    print_version(result, as_json)


def print_version(result: TrainingResult, as_json: bool) -> None:
    """Print what was registered, and how it is served."""
    assert result.version is not None
    if as_json:
        profile = {"profile": result.profile.as_json()} if result.profile else {}
        print_json({"model": result.version.reference, "run_id": result.run_id, **result.metrics, **profile})
        return
    print_metrics(result.metrics)
    if result.profile:
        print_table(("part", "share", "ms per step"), result.profile.rows())
        print(result.profile.told())
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
    use_gpu: bool | None = None,
) -> Any:
    """Return the configuration that a command's options describe, and print all of it on stderr."""
    from raycls import registry
    from raycls.data.versions import open_dataset
    from raycls.models.card import load_card
    from raycls.models.timm_networks import PREFIX
    from raycls.training.recipes import configured
    from raycls.training.shared_weights import of_network

    card = load_card(registry.checkpoint(registry.resolve(init))) if init else None
    info = open_dataset(dataset).info
    config = configured(
        info,
        preset_name or "fast",
        network=network,
        settings=[f"training.seed={seed or 0}", *(settings or ())],
        init=card,
        pretrained=weights is not None,
        use_gpu=use_gpu,
    )
    if network is None and card is None and (name := config.network.name).startswith(PREFIX):
        raise UsageError(
            f"--set network.name={name} would start from random weights: take --network {name}, which brings its own; "
            "random ones are --weights none beside it"
        )
    progress.say(f"{dataset}: " + "  ".join(f"{key}={value}" for key, value in config.flat().items()))
    if weights:
        of_network(weights, config.network.name)  # before anything is started
        _say_size(config.network.name, info)
    return config


def _say_size(network: str, info: DatasetInfo) -> None:
    """Say where the images are much smaller than those that the network's public weights learned from."""
    from raycls.models.networks import has_public_weights, native_side

    if has_public_weights(network) and info.image_size < (side := native_side(network)) * 2 / 3:
        progress.say(
            f"the weights of {network} learned from {side} pixels, and {info.reference} has {info.image_size}: "
            f"`raycls data prepare … --size {side}` may give a better model, where the pictures are that large"
        )


def weights_path(weights: str | None, network: str | None, init: str | None) -> str | None:
    """Return how workers name the first weights: None (random), "pretrained", or files, which all nodes can read."""
    from raycls.models.card import CARD
    from raycls.models.timm_networks import PREFIX
    from raycls.models.weights import PRETRAINED

    if weights and init:
        raise UsageError("--init and --weights both set the first weights: leave one out")
    if weights is None:
        return PRETRAINED if (network or "").startswith(PREFIX) and not init else None
    if weights in (PRETRAINED, "none"):
        return PRETRAINED if weights == PRETRAINED else None
    path = Path(weights).absolute()
    if not path.exists():
        raise UsageError(
            f"no file of weights {weights}: give --weights a .pt, .pth or .safetensors file, a folder of them, "
            "pretrained or none"
        )
    if ((path if path.is_dir() else path.parent) / CARD).is_file():
        raise UsageError(
            f"{weights} is a checkpoint of raycls, whose images have a normalisation of their own: start from the "
            "registered model with --init MODEL, like --init pets/3"
        )
    from raycls.training.shared_weights import shared, shared_folder

    return shared_folder(str(path)) if path.is_dir() else shared(str(path))
