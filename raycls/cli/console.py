"""`raycls console`: the web page alone, beside any server."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

import typer

from raycls import local_http
from raycls.config import validated
from raycls.errors import UsageError

app = typer.Typer()

HOST = "127.0.0.1"


@app.command()
def console(
    url: Annotated[str, typer.Option(help="URL of the server")] = "http://127.0.0.1:8000",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port of the page")] = 8080,
) -> None:
    """Show the web page of a server until Ctrl-C, on this machine. `raycls up` shows it at /console too.

    Example: raycls console --url http://127.0.0.1:8000
    """
    import uvicorn

    from raycls.console.application import application
    from raycls.serving.settings import ConsoleConfig

    if not (local_http.reaches_loopback(url) or urlsplit(url).scheme == "https"):
        raise UsageError(f"tokens would travel unencrypted to {url}: use https, or the server's own machine")
    config = validated(ConsoleConfig, {"server": url})
    print(f"the page of {url} is at http://{HOST}:{port}/")
    uvicorn.run(application(config, host=HOST), host=HOST, port=port, log_level="warning")
