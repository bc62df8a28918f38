"""Try trained networks on photographs in a browser."""

import time
from pathlib import Path
from typing import Annotated

import typer


def main(
    paths: Annotated[
        list[Path], typer.Argument(metavar="RUN_OR_FILE", help="Run directories or exported files, shown side by side.")
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0: all addresses, which needs --allow-host.")
    ] = "127.0.0.1",
    allow_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Host name that visitors may enter in the browser, besides --host; repeatable."
        ),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0: any free one.")] = 7860,
    max_upload_mb: Annotated[int, typer.Option(min=1, help="Larger files are rejected.")] = 20,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the page in the browser.")] = False,
):
    """Serve a web page on this machine that segments the photographs dropped on it with each network.

    unet demo runs/pets_nearest runs/pets_carafe --open
    """
    from unet import page
    from unet.console import say

    page.require_server()
    with page.listen(host, port) as listener:
        hosts = page.allowed_hosts(listener, [host, *(allow_host or [])])
        predictors = []
        for path in paths:
            start = time.perf_counter()
            predictors.append(page.load(path))
            say(f"{path}: loaded in {time.perf_counter() - start:.1f} s")
        page.serve(predictors, listener, max_upload_mb, open_browser, hosts)
