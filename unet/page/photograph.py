"""From an uploaded photograph to the HTML that shows its segmentation."""

import base64
import io
import time
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image, UnidentifiedImageError

from unet import figures
from unet.colours import colour_table
from unet.data.images import read_image
from unet.deprecation import renamed
from unet.errors import InputError

MAX_PIXELS = 50_000_000
"""Photographs with more pixels are rejected before they are decoded."""
SHOWN = 1600
"""Longest side in pixels of the pictures sent to the browser; areas are measured at full size."""


def read_photograph(path: str | Path) -> np.ndarray:
    """Read an uploaded file as uint8 ``(H, W, 3)``, upright, in the same way as training images.

    Raises:
        InputError: It is not an image, is damaged, or has too many pixels; the message is for the person who uploaded
            it.
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
        raise InputError(f"{path.name} has more than {limit}, the limit; scale it down.") from None
    except Exception as error:  # decoders raise all kinds of errors for damaged files
        raise InputError(f"{path.name} cannot be read: {error or type(error).__name__}.") from None


@renamed(large="mode")
def segment(predictors, path: str | Path, mode: str = "resize", flip: bool = False, progress=lambda *_: None) -> str:
    """Segment a photograph with each network, and render the result as HTML: masks over it, areas and times.

    Args:
        predictors: Networks loaded with :func:`unet.load`.
        path: The photograph.
        mode: ``"resize"`` or ``"tile"``, see :class:`unet.inference.Options`.
        flip: Whether to average with the mirrored photograph.
        progress: Called with the share of the networks that have finished and the name of the next one.

    Raises:
        InputError: The file cannot be used.
    """
    pixels = read_photograph(path)
    photograph = Image.fromarray(pixels)
    shown = photograph.copy()
    shown.thumbnail((SHOWN, SHOWN))
    networks, masks = [], []
    for index, predictor in enumerate(predictors):
        progress(index / len(predictors), predictor.name)
        start = time.perf_counter()
        mask = np.asarray(predictor.predict(pixels, mode=mode, flip=flip))
        seconds = time.perf_counter() - start
        shares = 100 * np.bincount(mask.ravel(), minlength=len(predictor.metadata.classes)) / mask.size
        layer = figures.paletted(mask, colour_table(predictor.metadata.colours))
        networks.append(describe(predictor, shares) | {"mask": _layer(layer, shown.size), "seconds": seconds})
        masks.append(mask)
    result = {"name": Path(path).name, "size": photograph.size, "photograph": _data_url(shown, "JPEG", quality=90)}
    if len(masks) > 1 and len({predictor.metadata.classes for predictor in predictors}) == 1:
        same = np.all([mask == masks[0] for mask in masks[1:]], axis=0)
        layer = Image.fromarray(same.astype(np.uint8))
        layer.putpalette([0, 0, 0, 0, 0, 0, 0, 255], "RGBA")  # transparent where they differ, black elsewhere
        result |= {"agreement": 100 * same.mean(), "agreement_mask": _layer(layer, shown.size)}
    return _TEMPLATE.render(networks=networks, **result)


def without_photograph(predictors, message: str = "") -> str:
    """Render the networks with their classes, and a message if there is one, as HTML."""
    return _TEMPLATE.render(networks=[describe(predictor) for predictor in predictors], message=message)


def describe(predictor, shares=None) -> dict:
    """Description of a network for the template, with the share of each class in per cent."""
    metadata = predictor.metadata
    shares = [None] * len(metadata.classes) if shares is None else shares
    return {
        "name": predictor.name,
        "upsampler": metadata.upsampler,
        "trained_at": metadata.size,
        "areas": list(zip(metadata.classes, metadata.colours, shares, strict=True)),
    }


def _layer(classes: Image.Image, size: tuple[int, int]) -> str:
    return _data_url(classes.resize(size, Image.Resampling.NEAREST), "PNG")


def _data_url(picture: Image.Image, file_format: str, **options) -> str:
    """A picture embedded in the page, so that none is written to disk."""
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return f"data:image/{file_format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


_TEMPLATE = jinja2.Environment(
    loader=jinja2.PackageLoader("unet.page"), autoescape=True, trim_blocks=True, lstrip_blocks=True
).get_template("page.html.j2")
