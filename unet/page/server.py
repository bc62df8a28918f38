"""Serving the page on this machine."""

import asyncio
import errno
import importlib.util
import ipaddress
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Collection
from pathlib import Path

import numpy as np

import unet
from unet import interrupts
from unet.errors import InputError
from unet.page.hosts import allowed_hosts

CONNECTIONS = 64
"""Largest number of connections; further ones are closed at once."""
BACKLOG = 16
"""Connections accepted at a time. Each takes a file descriptor, also those that are closed at once."""
REQUEST_SECONDS = 10
"""Seconds within which a connection must send the header of its request."""
RESPONSE_SECONDS = 60
"""Seconds within which a client that has fallen behind must read the response."""


def require_server() -> None:
    """Raise :class:`InputError` if Starlette or uvicorn, which are optional dependencies, are not installed."""
    for name in ("starlette", "uvicorn"):
        if importlib.util.find_spec(name) is None:
            raise InputError(f"the page needs {name}, which is not installed: pip install '.[demo]'")


def load(path: str | Path):
    """Load a network and run it once, as the first call takes longer than the following ones.

    Raises:
        InputError: See :func:`unet.load`; or a pixel may have several labels, which the page does not show.
    """
    predictor = unet.load(path)
    if not predictor.metadata.pixels.is_rgb:
        raise InputError(f"{path}: takes images with {predictor.metadata.pixels}; the page shows photographs only")
    if predictor.metadata.meaning.labels:
        raise InputError(f"{path}: gives a pixel several labels, which the page does not show; use unet predict")
    predictor.predict(np.zeros((*predictor.metadata.size, 3), np.uint8), mode="resize")
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


def serve(
    predictors,
    listener: socket.socket,
    max_upload_mb: int = 20,
    open_browser: bool = False,
    hosts: Collection[str] | None = None,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM, which raise KeyboardInterrupt and SystemExit.

    Args:
        predictors: Networks loaded with :func:`load`.
        listener: The socket that :func:`listen` returned.
        max_upload_mb: Larger files are rejected, MiB.
        open_browser: Whether to open the page in a browser.
        hosts: Hosts that requests may name; by default those that :func:`allowed_hosts` returns for the socket.

    Raises:
        InputError: Starlette or uvicorn is not installed, or the socket listens on all addresses and no host is given.
    """
    require_server()
    from unet.page.app import build

    app = build(predictors, max_upload_mb, allowed_hosts(listener) if hosts is None else hosts)
    ip, port, *_ = listener.getsockname()
    address = ipaddress.ip_address(ip.partition("%")[0])
    host = "localhost" if address.is_unspecified else f"[{ip}]" if address.version == 6 else ip
    with interrupts.sigterm_as_exit():
        server = _server(app)
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
                os._exit(int(stop.code or 1) if isinstance(stop, SystemExit) else 130)
            raise


def _server(app):
    """A ``uvicorn.Server`` that does not wait for slow clients, and logs nothing."""
    import h11
    import uvicorn
    from uvicorn.protocols.http.h11_impl import H11Protocol

    from unet.page.guard import HEADERS

    class Protocol(H11Protocol):
        deadline: asyncio.TimerHandle | None

        def connection_made(self, transport):
            super().connection_made(transport)
            self.deadline = self.loop.call_later(REQUEST_SECONDS, transport.abort)
            transport.set_write_buffer_limits(high=0)  # pause_writing is called as soon as the client falls behind
            if len(self.connections) > CONNECTIONS:
                transport.abort()

        def data_received(self, data):
            if self.cycle is not None and not self.cycle.more_body:
                return  # a connection carries one request; h11 would fail, or keep what follows
            super().data_received(data)
            if self.cycle is not None and self.deadline is not None:  # the header is complete
                self.deadline.cancel()
                self.deadline = None

        def send_400_response(self, msg):
            body = b'{"message":"The request is not valid HTTP."}'
            headers = {**HEADERS, "Content-Type": "application/json", "Content-Length": str(len(body))}
            head = self.scope is not None and self.scope["method"] == "HEAD"
            for event in (
                h11.Response(status_code=400, headers=[*headers.items()], reason=b"Bad Request"),
                h11.Data(data=b"" if head else body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def pause_writing(self):
            super().pause_writing()
            if self.deadline is None:
                self.deadline = self.loop.call_later(RESPONSE_SECONDS, self.transport.abort)

        def connection_lost(self, error):
            if self.deadline is not None:
                self.deadline.cancel()
            super().connection_lost(error)

    config = uvicorn.Config(
        app,
        http=Protocol,
        backlog=BACKLOG,
        loop="asyncio",
        ws="none",
        lifespan="off",
        interface="asgi3",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        log_level="critical",
        timeout_graceful_shutdown=1,
    )
    return uvicorn.Server(config)
