"""The command line: one command per stage. Parse, call the library, print; no logic.

    raycls data prepare cifar10 && raycls tune cifar10 --trials 8 && raycls up

Progress goes to stderr, results to stdout; with --json, stdout is exactly one JSON document. Exit code 0: done;
2: asked for wrongly (the message says how to ask); 1: failed; 130: interrupted.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from raycls.errors import RayclsError

app = typer.Typer(
    name="raycls",
    help="From a folder of images to a tuned, versioned, autoscaled and benchmarked HTTP classifier on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(no_args_is_help=True, help="Prepare and look at datasets.", rich_markup_mode=None)
app.add_typer(data, name="data")

AsJson = Annotated[bool, typer.Option("--json", help="print one JSON document on stdout, and nothing else")]
Dataset = Annotated[str, typer.Argument(help="a prepared dataset: see `raycls data list`")]
Preset = Annotated[str, typer.Option(help="fast, accurate or smoke")]
Network = Annotated[str | None, typer.Option(help="mlp, cnn or fastcnn (the default)")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="training processes; default: one per GPU, or one with all CPUs")
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
ServeConfig = Annotated[Path, typer.Option("--config", help="the Serve configuration")]
ServedModel = Annotated[
    str | None, typer.Option("--model", help="NAME, NAME@ALIAS or NAME/VERSION; default: the latest champion")
]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="HTTP port; default: the configuration's")]


@data.command("prepare")
def data_prepare(
    source: Annotated[str, typer.Argument(help="cifar10, digits, or a folder of class folders")],
    root: Annotated[Path | None, typer.Option(help="where torchvision's CIFAR-10 files already are")] = None,
    size: Annotated[
        int | None, typer.Option(min=8, max=1024, help="side of the packed images, pixels")
    ] = None,
    name: Annotated[str | None, typer.Option(help="the dataset's name; default: the source's")] = None,
    force: Annotated[bool, typer.Option("--force", help="replace a dataset of that name")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a packed dataset.

    Example: raycls data prepare photos/ --size 64 --name pets
    """
    from raycls.data.sources import prepare

    manifest = prepare(source, root=root, size=size, name=name, force=force).manifest
    if as_json:
        _print_json(manifest.model_dump(mode="json"))
    else:
        counts = ", ".join(f"{count:,} {split}" for split, count in manifest.counts.items())
        print(f"{manifest.name}: {counts}; {len(manifest.classes)} classes of {manifest.image_size} pixels")
        print(f"fingerprint {manifest.fingerprint}")
        if manifest.skipped:
            print(f"{len(manifest.skipped)} files skipped: see `raycls data show {manifest.name}`")


@data.command("list")
def data_list(as_json: AsJson = False) -> None:
    """List the prepared datasets.

    Example: raycls data list
    """
    from raycls.data.packed import list_datasets

    manifests = list_datasets()
    if as_json:
        _print_json([manifest.model_dump(mode="json") for manifest in manifests])
    elif not manifests:
        print("no datasets yet: make one with `raycls data prepare cifar10`")
    else:
        _print_table(
            ("dataset", "classes", "pixels", "train", "val", "test", "fingerprint"),
            [
                (m.name, len(m.classes), m.image_size, *m.counts.values(), m.fingerprint[:12])
                for m in manifests
            ],
        )


@data.command("show")
def data_show(
    name: Dataset,
    sheet: Annotated[
        Path | None, typer.Option(help="where to write the contact sheet; default: NAME.png")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show counts per class and split, mean, std and fingerprint, and write a contact sheet.

    Example: raycls data show cifar10 --sheet /tmp/cifar10.png
    """
    from raycls.data.contact_sheet import contact_sheet
    from raycls.data.packed import open_dataset

    dataset = open_dataset(name)
    path = sheet or Path(f"{name}.png")
    try:
        contact_sheet(dataset).save(path, format="PNG")
    except OSError as error:
        raise RayclsError(
            f"cannot write the contact sheet {path}: {error.strerror}; choose --sheet"
        ) from None
    manifest = dataset.manifest
    if as_json:
        _print_json({**manifest.model_dump(mode="json"), "contact_sheet": str(path)})
        return
    splits = list(manifest.class_counts)
    _print_table(
        ("class", *splits),
        [
            (label, *(manifest.class_counts[split][i] for split in splits))
            for i, label in enumerate(manifest.classes)
        ]
        + [("all", *manifest.counts.values())],
    )
    print(f"image size   {manifest.image_size} pixels")
    print(f"mean         {' '.join(f'{value:.4f}' for value in manifest.mean)}")
    print(f"std          {' '.join(f'{value:.4f}' for value in manifest.std)}")
    print(f"fingerprint  {manifest.fingerprint}")
    print(f"source       {manifest.source}")
    print(f"licence      {manifest.licence}")
    for file in manifest.skipped:
        print(f"skipped      {file.path}: {file.reason}")
    print(f"contact sheet: {path}")


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
    from raycls.training.trainer import train

    config = _configuration(dataset, preset, network, seed, settings)
    result = train(dataset, config, workers=workers, model=model)
    assert result.version is not None
    if as_json:
        _print_json({"model": result.version.reference, "run_id": result.run_id, **result.metrics})
        return
    _print_metrics(result.metrics)
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
    from raycls.training.tuner import search, train_best

    config = _configuration(dataset, preset, network, seed, settings)
    study = search(dataset, config, trials=trials, max_epochs=max_epochs, seed=seed)
    result, promoted = train_best(dataset, study, workers=workers, model=model)
    assert result.version is not None
    if as_json:
        _print_json(
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
    _print_table(
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
    _print_metrics(result.metrics)
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
    from raycls import registry
    from raycls.data.packed import open_dataset
    from raycls.models.predictor import Predictor
    from raycls.training.evaluation import evaluate

    version = registry.resolve(model)
    predictor = Predictor.load(registry.checkpoint(version))
    result = evaluate(predictor, open_dataset(predictor.card.dataset), split)
    if as_json:
        _print_json(
            {
                "model": version.reference,
                **result.metrics(split),
                "class_accuracy": result.class_accuracy,
                "confusion": result.confusion.tolist(),
            }
        )
        return
    print(f"{version.reference} on {predictor.card.dataset}/{split}")
    _print_metrics(result.metrics(split))
    _print_table(
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
        _print_json(
            [
                {"model": v.reference, "aliases": v.aliases, "run_id": v.run_id, **v.metrics, "tags": v.tags}
                for v in versions
            ]
        )
    elif not versions:
        print("no models yet: make one with `raycls train cifar10`")
    else:
        _print_table(
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
        _print_json({"model": promoted.reference, "aliases": promoted.aliases})
    else:
        print(f"{promoted.reference} is now {alias}")


@app.command()
def predict(
    target: Annotated[str, typer.Argument(help="a server's URL, or NAME, NAME@ALIAS, NAME/VERSION")],
    images: Annotated[list[Path], typer.Argument(help="image files")],
    top_k: Annotated[int, typer.Option(min=0, help="also print the K likeliest classes")] = 0,
    as_json: AsJson = False,
) -> None:
    """Classify images, over HTTP or in this process: the same answer.

    Example: raycls predict http://127.0.0.1:8000 cat.png
    """
    from raycls.serving.client import predict

    answers = predict(target, images, top_k=top_k)
    if as_json:
        _print_json({"predictions": answers})
        return
    for path, answer in zip(images, answers, strict=True):
        print(
            f"{path}: {answer['class_name']} {answer['confidence']:.4f} (version {answer['model_version']})"
        )
        for other in answer.get("top_k", ()):
            print(f"    {other['class_name']} {other['confidence']:.4f}")


@app.command()
def up(
    config: ServeConfig = Path("serve_config.yaml"),
    detach: Annotated[
        bool, typer.Option("--detach", help="return when it serves; end with `raycls down`")
    ] = False,
    model: ServedModel = None,
    port: Port = None,
    as_json: AsJson = False,
) -> None:
    """Start Ray with the right environment and serve a model, until Ctrl-C.

    Example: raycls up --detach
    """
    from raycls.serving.deploy import up

    served = up(config, detach=detach, model=model, port=port)
    if as_json:
        _print_json(served.__dict__)
    else:
        print(f"{served.model} at {served.url}/predict")
        print(f"dashboard {served.dashboard}; jobs: RAY_AUTH_MODE=token ray job submit --address {served.dashboard} …")


@app.command()
def down() -> None:
    """Stop what `raycls up` started, and nothing else.

    Example: raycls down
    """
    from raycls.serving.deploy import down

    print("stopped" if down() else "nothing was running")


@app.command()
def env() -> None:
    """Print the environment for people who start Ray themselves.

    Example: eval "$(raycls env)" && ray start --head
    """
    import shlex

    from raycls.cluster import environment

    for name, value in environment().items():
        print(f"export {name}={shlex.quote(value)}")


@app.command()
def bench(
    replicas: Annotated[str, typer.Option(help="replica counts to compare; the first is the 1.0")] = "1,2",
    connections: Annotated[str, typer.Option(help="closed loops")] = "1,8,32",
    seconds: Annotated[float, typer.Option(help="of each load")] = 3.0,
    repeats: Annotated[int, typer.Option(min=1, help="of each load")] = 3,
    config: ServeConfig = Path("serve_config.yaml"),
    model: ServedModel = None,
    port: Port = None,
    output: Annotated[Path | None, typer.Option(help="folder for the page and the plot")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare replica counts under load. (benchmarks/serving.py has every option.)

    Example: raycls bench --replicas 1,2 --output /tmp/bench
    """
    from raycls.config import validated
    from raycls.serving.benchmark import replicas as benchmark
    from raycls.serving.benchmark import report
    from raycls.serving.benchmark.results import Plan

    plan = validated(
        Plan,
        {
            "replicas": replicas.split(","),
            "connections": connections.split(","),
            "seconds": seconds,
            "repeats": repeats,
        },
    )
    results = benchmark.run(plan, model=model, config=config, port=port)
    report.print_table(results)
    if output:
        for path in report.write(results, output):
            print(f"wrote {path}", file=sys.stderr)
    if as_json:
        _print_json(results.as_json())


@app.command()
def demo(
    config: ServeConfig = Path("serve_config.yaml"),
    dataset: Annotated[
        str | None, typer.Option(help="cifar10 or digits; default: cifar10 where it can be had")
    ] = None,
    port: Port = None,
    as_json: AsJson = False,
) -> None:
    """Everything once: data, tuning, training, serving over HTTP, one replica against two. About five minutes.

    Example: raycls demo
    """
    from raycls import home
    from raycls.demo import run

    result = run(config, dataset_name=dataset, port=port)
    if as_json:
        _print_json(result.as_json())
        return
    _print_table(("raycls demo", f"{result.seconds:.0f} s"), result.rows())
    print(f"MLflow run   {result.training.run_id}: mlflow ui --backend-store-uri {home.tracking_uri()}")
    print(f"report       {result.report}")
    print(f"benchmark    {result.benchmark_page}")
    print("keep serving raycls up  (then: raycls predict http://127.0.0.1:8000 IMAGE)")


def _configuration(
    dataset: str, preset_name: str, network: str | None, seed: int, settings: list[str] | None
) -> Any:
    """The configuration a command asks for, printed in full on stderr as the start of the run's record."""
    from raycls.config import override, preset
    from raycls.data.packed import open_dataset
    from raycls.progress import say

    config = preset(preset_name, open_dataset(dataset).manifest, network)
    config = override(config, [f"training.seed={seed}", *(settings or ())])
    say(f"{dataset}: " + "  ".join(f"{key}={value}" for key, value in config.flat().items()))
    return config


def _print_json(value: Any) -> None:
    print(json.dumps(value))


def _print_metrics(metrics: dict[str, float]) -> None:
    for name, value in metrics.items():
        print(f"{name:<20} {value:.4f}")


def _print_table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for i, title in enumerate(header):
        table.add_column(title, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    width = None if sys.stdout.isatty() else 160  # a file or a pipe has no edge to wrap at
    Console(width=width, highlight=False, markup=False).print(table)


def run(arguments: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return its exit code; errors become one line on stderr."""
    try:
        app(list(arguments), prog_name="raycls")
    except SystemExit as done:  # typer's own end, also for a wrong option, which it explains itself
        if done.code == 130:
            print("interrupted", file=sys.stderr)
        return done.code if isinstance(done.code, int) else 0
    except RayclsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def main() -> None:
    sys.exit(run(sys.argv[1:]))
