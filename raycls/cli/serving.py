"""`raycls predict | up | down | env | doctor | top | bench`: serve a registered model over HTTP and measure it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from raycls import progress
from raycls.cli.output import AsJson, print_json, print_table
from raycls.errors import ClusterError, RayclsError, UsageError

app = typer.Typer()

ServeConfig = Annotated[
    Path, typer.Option("--config", help="Ray Serve configuration file; where there is none, raycls's own")
]
ServedModel = Annotated[
    str | None, typer.Option("--model", help="NAME, NAME@ALIAS or NAME/VERSION; default: the latest champion")
]
Port = Annotated[
    int | None, typer.Option(min=1, max=65535, help="HTTP port; default: the port in the configuration file")
]
SERVE_CONFIG = Path("serve_config.yaml")


@app.command()
def predict(
    target: Annotated[str, typer.Argument(help="URL of a server, or NAME, NAME@ALIAS, NAME/VERSION")],
    images: Annotated[list[Path], typer.Argument(help="image files")],
    top_k: Annotated[int, typer.Option(min=0, help="also print the K most likely classes")] = 0,
    as_json: AsJson = False,
) -> None:
    """Classify images with a server, or with a registered model in this process. Both give the same answer.

    Example: raycls predict http://127.0.0.1:8000 cat.png
    """
    from raycls.serving.client.predict import predict

    documents, failed = [], []
    try:
        for path, answer in zip(images, predict(target, images, top_k=top_k), strict=True):
            if isinstance(answer, RayclsError):
                failed.append(answer)
                documents.append({"file": str(path), "error": str(answer)})
                continue
            documents.append({"file": str(path), **answer})
            if as_json:
                continue
            rejected = ", rejected: below the threshold" if answer.get("rejected") else ""
            print(
                f"{path}: {answer['class_name']} {answer['confidence']:.4f} (version {answer['model_version']}"
                f"{rejected})"
            )
            for other in answer.get("top_k", ()):
                print(f"    {other['class_name']} {other['confidence']:.4f}")
    finally:  # also where the server ends before the last file
        if as_json:
            print_json({"predictions": documents})
        for error in failed[:-1]:
            print(f"error: {error}", file=sys.stderr)
    if failed:
        raise failed[-1]


@app.command()
def up(
    config: ServeConfig = SERVE_CONFIG,
    detach: Annotated[
        bool, typer.Option("--detach", help="return when the server is ready; stop it with `raycls down`")
    ] = False,
    model: ServedModel = None,
    also: Annotated[
        list[str] | None,
        typer.Option(help="another model, at /models/NAME/predict, with the same settings; can be repeated"),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(
            help="address to listen on; 0.0.0.0 is every address and needs a token; default: the configuration's"
        ),
    ] = None,
    port: Port = None,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="so many, without autoscaling; default: the configuration's")
    ] = None,
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            help="a name by which clients reach the server, beside localhost and addresses; can be repeated"
        ),
    ] = None,
    no_auth: Annotated[
        bool, typer.Option("--no-auth", help="accept requests without a token from every machine")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Start Ray with the right environment and serve a model until Ctrl-C.

    Example: raycls up --detach
    """
    from raycls.serving.control.configuration import ServeConfiguration
    from raycls.serving.control.deploy import up

    document = ServeConfiguration.read(config).pinned(
        model=model, host=host or None, port=port, replicas=replicas, names=tuple(allowed_host or ())
    )
    for each in also or ():
        document = document.with_model(each)
    served = up(document, detach=detach, guarded=not no_auth)
    if as_json:
        print_json(served.__dict__)
    else:
        for url, reference in {served.url: served.model, **served.others}.items():
            print(f"{reference} at {url}/predict")
        if document.has_console:
            print(f"web page {served.url}/console: sign in with the token in {served.admin_token}")
        print(
            f"dashboard {served.dashboard}; jobs: RAY_AUTH_MODE=token ray job submit --address {served.dashboard} …"
        )


@app.command()
def down() -> None:
    """Stop what `raycls up` started, and nothing else. The requests that are inside are answered first.

    Example: raycls down
    """
    from raycls.serving.control.deploy import down

    print("stopped" if down() else "nothing was running")


@app.command()
def env() -> None:
    """Print the environment variables that Ray needs, for those who start Ray themselves.

    Example: eval "$(raycls env)" && ray start --head
    """
    import shlex

    from raycls.cluster.environment import environment

    for name, value in environment().items():
        print(f"export {name}={shlex.quote(value)}")


@app.command()
def doctor(config: ServeConfig = SERVE_CONFIG, port: Port = None, as_json: AsJson = False) -> None:
    """Check the running cluster and the configuration, and say how to repair what is wrong.

    Exit code 1: something is wrong. Example: raycls doctor
    """
    from raycls.serving.control.doctor import examine

    findings = examine(config, port=port)
    if as_json:
        print_json([finding.__dict__ for finding in findings])
    else:
        for finding in findings:
            print(f"{'ok     ' if finding.ok else 'PROBLEM'}  {finding.text}")
            if finding.mend:
                print(f"         repair: {finding.mend}")
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@app.command()
def top(
    url: Annotated[str, typer.Argument(help="URL of the server")] = "http://127.0.0.1:8000",
    seconds: Annotated[float, typer.Option(min=0.1, help="interval between two measurements")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="measure once, then end")] = False,
    as_json: AsJson = False,
) -> None:
    """Watch the replicas of a server: requests/s, latency, batches, versions. --json measures once.

    Example: raycls top --once
    """
    from rich.console import Console

    from raycls.serving.client.top import watch

    def shown(value: float | None) -> str:
        return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"

    for view in watch(url, seconds):
        if view.problem and (once or as_json):
            raise ClusterError(view.problem)
        if as_json:
            print_json(view.model_dump())
            return
        if not once:
            Console().clear()
        if view.problem:
            print(view.problem)
            continue
        measures = ("requests/s", "errors/s", "p50 ms", "p99 ms", "held", "queue p50 ms", "images a batch")
        rows = [
            (row.name, row.model, *map(shown, row.model_dump(exclude={"name", "model"}).values()))
            for row in view.replicas
        ]
        print_table(("replica", "model", *measures), rows)
        print(
            f"{view.requests_per_s:,.0f} requests/s on {len(view.replicas)} replicas in {view.seconds:.1f} s; "
            f"predictions: p50 {shown(view.p50_ms)} ms, p99 {shown(view.p99_ms)} ms"
        )
        if once:
            return


@app.command()
def bench(
    replicas: Annotated[
        str, typer.Option(help="replica counts to compare; speed-ups are relative to the first")
    ] = "1,2",
    connections: Annotated[str, typer.Option(help="closed loops, by number of connections")] = "1,8,32",
    rates: Annotated[
        str, typer.Option(help="open loops: requests/s like 200,400; none; auto (50% and 80% of the peak)")
    ] = "auto",
    seconds: Annotated[float, typer.Option(help="measured part of one repeat")] = 3.0,
    repeats: Annotated[int, typer.Option(help="repeats of each load")] = 3,
    simulate_forward_ms: Annotated[
        float, typer.Option(help="simulate a slow network: each image sleeps this long, which needs no CPU")
    ] = 0,
    model: ServedModel = None,
    config: ServeConfig = SERVE_CONFIG,
    port: Port = None,
    images: Annotated[
        Path | None,
        typer.Option(help="folder of images to send; default: the test split of the model's dataset"),
    ] = None,
    url: Annotated[
        str | None, typer.Option(help="measure the server at this URL instead of deploying one")
    ] = None,
    allow_remote: Annotated[
        bool, typer.Option("--allow-remote", help="allow a --url on another machine")
    ] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", help="deploy in place of what `raycls up` serves, and put that back at the end"
        ),
    ] = False,
    output: Annotated[Path | None, typer.Option(help="folder for the page and its plot")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare replica counts under load: requests/s and latency, in closed and open loops.

    Example: raycls bench --replicas 1,2 --output /tmp/bench
    """
    from raycls.benchmark.results import Plan
    from raycls.config import validated

    plan = validated(
        Plan,
        {
            "replicas": replicas.split(","),
            "connections": connections.split(","),
            "rates": {"auto": "auto", "none": ()}.get(rates, rates.split(",")),
            "seconds": seconds,
            "repeats": repeats,
            "simulate_forward_ms": simulate_forward_ms,
        },
    )
    if url and simulate_forward_ms:
        raise UsageError(
            "--simulate-forward-ms cannot be used with --url: it changes the replicas that bench deploys"
        )
    if url and not images:
        raise UsageError("--url needs --images, a folder of images to send")

    with progress.bar("loading PyTorch and Ray"):  # after the checks, so that wrong use fails at once
        from raycls.benchmark import replicas as benchmark
        from raycls.benchmark import report

    if not (url or yes):
        benchmark.check_free()
    if url and images:
        results = benchmark.run_at(url, plan, images=images, allow_remote=allow_remote)
    else:
        results = benchmark.run(plan, model=model, config=config, port=port, images=images)
    report.print_table(results)
    if output:
        for path in report.write(results, output):
            progress.say(f"wrote {path}")
    if as_json:
        print_json(results.as_json())
