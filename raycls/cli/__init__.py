"""The command line: one command per stage. A command parses its options, calls the library and prints.

    raycls data prepare cifar10 && raycls tune cifar10 --trials 8 && raycls up

The other modules of this folder hold the commands of one part of the library each. Progress goes to stderr and results
go to stdout. With --json, stdout is exactly one JSON document. Exit codes: 0 done; 2 wrong use (the message says what
is right); 1 failed; 130 interrupted.
"""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from raycls import command, progress
from raycls.cli import (
    capture,
    console,
    data,
    data_sharing,
    drift,
    ensemble,
    experiments,
    export,
    feedback,
    models,
    networks,
    promotion,
    prune,
    rejection,
    retrain,
    score,
    serving,
    soup,
    tokens,
    training,
    tuning,
    uploads,
)
from raycls.cli.output import AsJson, print_json, print_table
from raycls.cli.serving import SERVE_CONFIG, Port, ServeConfig
from raycls.errors import RayclsError

app = typer.Typer(
    name="raycls",
    help="From a folder of images to a tuned, versioned, autoscaled and benchmarked HTTP classifier on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data.app.add_typer(data_sharing.app)
app.add_typer(data.app, name="data")
app.add_typer(networks.app)
app.add_typer(training.app)
app.add_typer(ensemble.app)
app.add_typer(soup.app)
app.add_typer(prune.app)
app.add_typer(tuning.app, name="tune")
app.add_typer(models.app)
app.add_typer(promotion.app)
app.add_typer(rejection.app)
app.add_typer(export.app)
app.add_typer(score.app)
app.add_typer(serving.app)
app.add_typer(tokens.app, name="tokens")
app.add_typer(experiments.app, name="experiment")
app.add_typer(retrain.app, name="retrain")
uploads.app.add_typer(capture.app)
app.add_typer(uploads.app, name="uploads")
app.add_typer(feedback.app, name="feedback")
app.add_typer(drift.app)
app.add_typer(console.app)


@app.command()
def demo(
    config: ServeConfig = SERVE_CONFIG,
    dataset: Annotated[
        str | None,
        typer.Option(help="cifar10 or digits; default: cifar10, or digits if CIFAR-10 cannot be downloaded"),
    ] = None,
    port: Port = None,
    as_json: AsJson = False,
) -> None:
    """Run everything once: data, tuning, training, serving over HTTP, a load test of one and of two replicas.

    Example: raycls demo
    """
    with progress.bar("loading PyTorch and Ray"):
        from raycls import home
        from raycls.demo.run import run

    result = run(config, dataset_name=dataset, port=port)
    if as_json:
        print_json(result.as_json())
        return
    print_table(("raycls demo", f"{result.seconds:.0f} s"), result.rows())
    print(f"MLflow run   {result.training.run_id} (mlflow ui --backend-store-uri {home.tracking_uri()})")
    print(f"report       {result.report}")
    print(f"load test    {result.benchmark_page}")
    print("serve again  raycls up, then: raycls predict http://127.0.0.1:8000 IMAGE")


def run(arguments: Sequence[str]) -> int:
    """Run one command line (without the program's name) and return its exit code. An error is one line on stderr."""
    try:
        app(list(arguments), prog_name="raycls")
    except SystemExit as done:  # typer ends every command this way, and explains a wrong option itself
        if done.code == 130:
            print("interrupted", file=sys.stderr)
        return done.code if isinstance(done.code, int) else 0
    except RayclsError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the process's command line. SIGTERM (`ray job stop`) and a closed terminal stop it as Ctrl-C does."""
    command.interruptible()
    codes: list[int] = []
    atexit.register(_end, codes)
    codes.append(run(sys.argv[1:] if arguments is None else arguments))
    sys.exit(codes[0])


def _end(codes: list[int]) -> None:
    """End the process here, when what else was registered has cleaned up: this was the first to be registered.

    Python's own end would visit each object of PyTorch once more (1.5 to 2 s), let triton name what was not collected
    (30 lines), and crash one time of sixteen where Ctrl-C came in the middle of Ray's start. codes: [] after a bug.
    """
    if codes:
        try:
            sys.stdout.flush()
        except (OSError, ValueError):  # Python's own end says so
            return
        os._exit(codes[0])
