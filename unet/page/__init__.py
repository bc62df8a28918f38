"""A web page to try networks on photographs: ``unet demo``."""

from unet.page.app import TITLE, build
from unet.page.photograph import read_photograph, segment
from unet.page.server import listen, load, require_gradio, serve

__all__ = ["TITLE", "build", "listen", "load", "read_photograph", "require_gradio", "segment", "serve"]
