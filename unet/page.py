"""The page to try networks on photographs of one's own: ``unet demo``."""

import base64
import errno
import importlib.util
import io
import ipaddress
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
import warnings
import webbrowser
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image, UnidentifiedImageError

import unet
from unet import figures, interrupts
from unet.data.images import read_image
from unet.errors import InputError

TITLE = "Try a segmentation network"
MAX_PIXELS = 50_000_000
"""Photographs of more pixels are refused before they are decoded."""
SHOWN = 1600
"""Longest side in pixels of the pictures sent to the browser; areas are counted at full size."""
KEPT = 3600
"""Seconds after which an uploaded file has been deleted at the latest; when the server ends, all are."""


def require_gradio() -> None:
    """Raise :class:`InputError` where Gradio, an optional extra, is not installed."""
    if importlib.util.find_spec("gradio") is None:
        raise InputError("the page needs gradio, which is not installed: pip install '.[demo]'")


def load(path: str | Path):
    """Load a network, and run it once: that takes longer than any photograph after it.

    Raises:
        InputError: As :func:`unet.load`.
    """
    predictor = unet.load(path)
    predictor.predict(np.zeros((*predictor.metadata.size, 3), np.uint8))
    return predictor


# === From a photograph to what is shown of it ===


def read_photograph(path: str | Path) -> np.ndarray:
    """Read an uploaded file as uint8 ``(H, W, 3)``, upright, as training images are read.

    Raises:
        InputError: It is no image, a broken one, or one of too many pixels; the message is for whoever uploaded it.
    """
    path = Path(path)
    try:
        with Image.open(path) as file:
            if file.width * file.height > MAX_PIXELS:
                raise Image.DecompressionBombError
        return read_image(path)
    except FileNotFoundError:
        raise InputError(f"{path.name} has been deleted in the meantime; choose it again.") from None
    except UnidentifiedImageError:
        raise InputError(f"{path.name} is not an image. JPEG, PNG, WebP, TIFF and BMP files can be read.") from None
    except Image.DecompressionBombError:
        limit = f"{MAX_PIXELS // 10**6} million pixels"
        raise InputError(f"{path.name} has more than {limit}, the most that is taken; scale it down.") from None
    except Exception as error:  # decoders raise anything where a file is broken
        raise InputError(f"{path.name} cannot be read: {error or type(error).__name__}.") from None


def segment(predictors, path: str | Path, mode: str = "resize", flip: bool = False, begins=lambda *_: None) -> str:
    """What the page shows of a photograph, as HTML: the mask of each network over it, areas and times.

    Args:
        predictors: As :func:`unet.load` returns them.
        path: The photograph.
        mode: ``"resize"`` or ``"tile"``: what is done with photographs larger than the network's size.
        flip: Whether to average with the mirrored photograph.
        begins: Called with the share of the networks that are done and the name of the next one.

    Raises:
        InputError: The file cannot be used.
    """
    pixels = read_photograph(path)
    photograph = Image.fromarray(pixels)
    shown = photograph.copy()
    shown.thumbnail((SHOWN, SHOWN))
    networks, masks = [], []
    for index, predictor in enumerate(predictors):
        begins(index / len(predictors), predictor.name)
        start = time.perf_counter()
        mask = np.asarray(predictor.predict(pixels, mode=mode, flip=flip))
        seconds = time.perf_counter() - start
        shares = 100 * np.bincount(mask.ravel(), minlength=len(predictor.metadata.classes)) / mask.size
        layer = figures.paletted(mask, figures.colour_table(predictor.metadata.colours))
        networks.append(_describe(predictor, shares) | {"mask": _layer(layer, shown.size), "seconds": seconds})
        masks.append(mask)
    result = {"name": Path(path).name, "size": photograph.size, "photograph": _data_url(shown, "JPEG", quality=90)}
    if len(masks) > 1 and len({predictor.metadata.classes for predictor in predictors}) == 1:
        same = np.all([mask == masks[0] for mask in masks[1:]], axis=0)
        layer = Image.fromarray(same.astype(np.uint8))
        layer.putpalette([0, 0, 0, 0, 0, 0, 0, 255], "RGBA")  # see-through where they differ, black elsewhere
        result |= {"agreement": 100 * same.mean(), "agreement_mask": _layer(layer, shown.size)}
    return _TEMPLATE.render(networks=networks, **result)


def _describe(predictor, shares=None) -> dict:
    """What is said of a network, and the share of each class in per cent."""
    metadata = predictor.metadata
    shares = [None] * len(metadata.classes) if shares is None else shares
    return {
        "name": predictor.name,
        "upsampler": metadata.upsampler,
        "trained_at": metadata.size,
        "areas": list(zip(metadata.classes, metadata.colours, shares, strict=True)),
    }


def _text(name: str) -> str:
    return (Path(__file__).parent / "templates" / name).read_text(encoding="utf-8")


def _layer(classes: Image.Image, size: tuple[int, int]) -> str:
    return _data_url(classes.resize(size, Image.Resampling.NEAREST), "PNG")


def _data_url(picture: Image.Image, file_format: str, **options) -> str:
    """A picture as part of the page, so that none is written to a disk."""
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return f"data:image/{file_format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


# === The page ===


def build(predictors, max_upload_mb: int = 20):
    """The page as a ``gradio.Blocks``.

    Args:
        predictors: As :func:`unet.load` returns them; shown side by side.
        max_upload_mb: Said beside the place to drop a photograph; :func:`serve` sees to it.
    """
    import gradio

    networks = [_describe(predictor) for predictor in predictors]

    def show(dropped, chosen, mode, flip, progress=gradio.Progress()):  # noqa: B008, how Gradio finds it
        """The result, the file it is of, and an empty place for the next one."""
        path = dropped or chosen
        if not path:
            return _TEMPLATE.render(networks=networks), None, None
        try:
            return segment(predictors, path, mode, flip, progress), path, None
        except InputError as error:
            return _TEMPLATE.render(networks=networks, message=str(error)), path, None

    cleaning = (KEPT // 10, KEPT - KEPT // 10)  # how often, and what is older
    with gradio.Blocks(title=TITLE, analytics_enabled=False, delete_cache=cleaning, fill_width=True) as blocks:
        chosen = gradio.State()
        gradio.HTML(_HEADER, apply_default_css=False)
        with gradio.Row(equal_height=True):
            photograph = gradio.File(label=f"Photograph, up to {max_upload_mb} MB", height=150, elem_id="photograph")
            with gradio.Column():
                mode = gradio.Radio(
                    [("the whole photograph, resized", "resize"), ("tiles at full resolution", "tile")],
                    value="resize",
                    label="What a network sees",
                )
                flip = gradio.Checkbox(label="Average with the mirror image (twice the time)")
        empty, *_ = show(None, None, None, None)
        result = gradio.HTML(empty, apply_default_css=False, js_on_load=_text("page.js"), elem_id="result")
        gradio.on(
            [photograph.upload, mode.input, flip.input],
            show,
            [photograph, chosen, mode, flip],
            [result, chosen, photograph],
            show_progress_on=result,
            concurrency_limit=1,  # one photograph at a time, whoever asks
            trigger_mode="always_last",
            api_visibility="private",
        )
    return blocks


def listen(host: str = "127.0.0.1", port: int = 7860) -> socket.socket:
    """A socket to serve the page on; port 0 is any free one.

    Raises:
        InputError: It cannot listen there; the message names the option to change.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        option = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        reason = str(error.strerror).partition(" (")[0]
        raise InputError(f"{option}: cannot listen on port {port} of {host} ({reason}); choose another") from None


def serve(predictors, listener: socket.socket, max_upload_mb: int = 20, open_browser: bool = False) -> None:
    """Serve the page until Ctrl-C or SIGTERM, which are raised as KeyboardInterrupt and SystemExit.

    Args:
        predictors: As :func:`load` returns them.
        listener: As :func:`listen` returns it.
        max_upload_mb: Larger files are refused.
        open_browser: Whether to open the page.

    Raises:
        InputError: Gradio is not installed.
    """
    require_gradio()
    ip, port, *_ = listener.getsockname()
    address = ipaddress.ip_address(ip)
    host = "localhost" if address.is_unspecified else f"[{ip}]" if address.version == 6 else ip
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    with tempfile.TemporaryDirectory(prefix="unet-page-") as uploads, interrupts.sigterm_as_exit():
        server = _server(predictors, max_upload_mb, uploads)
        if not address.is_loopback:
            print(f"warning: everybody who reaches port {port} of this machine can upload photographs", file=sys.stderr)
        print(f"page: http://{host}:{port} (Ctrl-C ends it)", flush=True)
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
            if thread.is_alive():  # a network in the middle of a photograph: it would be waited for
                shutil.rmtree(uploads, ignore_errors=True)
                os._exit(143 if isinstance(stop, SystemExit) else 130)
            raise


def _server(predictors, max_upload_mb: int, uploads: str):
    """The page as a ``uvicorn.Server``, which keeps what is uploaded in the folder ``uploads``."""
    # Gradio reads these when it is imported: nothing is told to anybody, or stays in the browser.
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "GRADIO_TEMP_DIR": uploads}
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
        css=_text("page.css"),
    )

    async def with_policy(scope, receive, send):
        async def send_with_policy(message):
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY)]
            await send(message)

        await app(scope, receive, send_with_policy)

    return uvicorn.Server(uvicorn.Config(with_policy, log_level="critical", timeout_graceful_shutdown=1))


_POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"
"""Whatever Gradio's own page may ask for, the browser fetches nothing from elsewhere."""

_HEADER = f"""
<header>
  <h1>{TITLE}</h1>
  <p>Drop a photograph, and every pixel of it is coloured by the class that the network finds most likely.
  It is used for nothing else, and deleted after an hour at the latest.</p>
</header>
"""

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("unet"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
_TEMPLATE = _TEMPLATES.get_template("page.html.j2")
