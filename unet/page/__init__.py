"""A web page to try networks on photographs: ``unet demo``."""

import warnings

from unet.page.hosts import allowed_hosts
from unet.page.photograph import read_photograph, segment
from unet.page.server import listen, load, require_server, serve

__all__ = ["allowed_hosts", "listen", "load", "read_photograph", "require_server", "segment", "serve"]


def require_gradio() -> None:
    """Former name of :func:`require_server`."""
    warnings.warn("require_gradio() is now called require_server()", DeprecationWarning, stacklevel=2)
    require_server()
