"""Serving the page on this machine."""

import errno
import importlib.util
import ipaddress
import os
import shutil
import socket
import sys
import tempfile
import threading
import warnings
import webbrowser
from pathlib import Path

import numpy as np
from PIL import Image

import unet
from unet import interrupts
from unet.environment import environment_variables
from unet.errors import InputError
from unet.page.app import build, template

_POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
"""Content security policy: the browser fetches nothing from other servers, whatever Gradio's own page asks for."""


def require_gradio() -> None:
    """Raise :class:`InputError` if Gradio, an optional dependency, is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the page needs gradio, which is not installed: pip install '.[demo]'")


def load(path: str | Path):
    """Load a network and run it once, as the first call takes longer than the following ones.

    Raises:
        InputError: See :func:`unet.load`.
    """
    predictor = unet.load(path)
    predictor.predict(np.zeros((*predictor.metadata.size, 3), np.uint8))
    return predictor


def listen(host: str = "127.0.0.1", port: int = 7860) -> socket.socket:
    """Open a socket to serve the page on; port 0 means any free one.

    Raises:
        InputError: It cannot listen there; the message names the argument to change.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        argument = "port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "host"
        reason = str(error.strerror).partition(" (")[0]
        raise InputError(f"cannot listen on port {port} of {host} ({reason}); choose another", argument) from None


def serve(predictors, listener: socket.socket, max_upload_mb: int = 20, open_browser: bool = False) -> None:
    """Serve the page until Ctrl-C or SIGTERM, which raise KeyboardInterrupt and SystemExit.

    Args:
        predictors: Networks loaded with :func:`load`.
        listener: The socket that :func:`listen` returned.
        max_upload_mb: Larger files are rejected.
        open_browser: Whether to open the page in a browser.

    Raises:
        InputError: Gradio is not installed.
    """
    require_gradio()
    ip, port, *_ = listener.getsockname()
    address = ipaddress.ip_address(ip)
    host = "localhost" if address.is_unspecified else f"[{ip}]" if address.version == 6 else ip
    with (
        tempfile.TemporaryDirectory(prefix="unet-page-") as uploads,
        # Gradio's settings: no usage statistics, no history in the browser.
        environment_variables(GRADIO_ANALYTICS_ENABLED="False", GRADIO_RUN_HISTORY="False", GRADIO_TEMP_DIR=uploads),
        warnings.catch_warnings(),
        interrupts.sigterm_as_exit(),
    ):
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        server = _server(predictors, max_upload_mb)
        if not address.is_loopback:
            print(f"warning: anyone who can reach port {port} of this machine can upload photographs", file=sys.stderr)
        print(f"page: http://{host}:{port} (Ctrl-C to stop)", flush=True)
        if open_browser:
            webbrowser.open(f"http://{host}:{port}")
        thread = threading.Thread(target=server.run, args=[[listener]], daemon=True)
        thread.start()
        try:
            while thread.is_alive():
                thread.join(1)
        except (KeyboardInterrupt, SystemExit) as stop:
            server.should_exit = True
            thread.join(3)
            if thread.is_alive():  # a network is still busy with a photograph, and exiting would wait for it
                shutil.rmtree(uploads, ignore_errors=True)
                os._exit(143 if isinstance(stop, SystemExit) else 130)
            raise


def _server(predictors, max_upload_mb: int):
    """The page as a ``uvicorn.Server``."""
    import fastapi
    import gradio
    import uvicorn

    app = gradio.mount_gradio_app(
        fastapi.FastAPI(openapi_url=None),
        build(predictors, max_upload_mb),
        path="/",
        footer_links=[],
        max_file_size=f"{max_upload_mb}mb",
        enable_monitoring=False,
        theme=gradio.themes.Default(
            primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        css=template("page.css"),
    )

    async def with_policy(scope, receive, send):
        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY)]
            await send(message)

        await app(scope, receive, send_with_policy)

    return uvicorn.Server(uvicorn.Config(with_policy, log_level="critical", timeout_graceful_shutdown=1))
