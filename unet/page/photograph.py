"""From a photograph to the HTML that shows its segmentation."""

import base64
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from unet import figures
from unet.colours import colour_table
from unet.data import images
from unet.data.masks import class_counts
from unet.deprecation import renamed
from unet.errors import InputError
from unet.page import decoder

SHOWN = 1600
"""Longest side in pixels of the pictures sent to the browser; areas are measured at full size."""


@renamed(path="file")
def read_photograph(file: bytes | str | Path) -> np.ndarray:
    """Read a photograph as uint8 ``(H, W, 3)``, upright, in the same way as training images.

    It is decoded in a process of its own (:mod:`unet.page.decoder`), since a file from a stranger may be made to crash
    a decoder, or to make it take all memory or hours.

    Args:
        file: Content of an image file, or its path.

    Raises:
        InputError: It is not an image, is damaged, or has too many pixels; the message is for the person who chose it.
    """
    content = file if isinstance(file, bytes) else Path(file).read_bytes()
    try:
        done = subprocess.run(
            _decoder(),
            input=content,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # libraries print warnings there, which quote the file
            timeout=3 * decoder.SECONDS,
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # each thread takes address space
            start_new_session=True,  # Ctrl-C is for the server
        )
        start = done.stdout.find(b"\n") + 1
        answer = json.loads(done.stdout[:start])
        if "size" in answer:
            return np.frombuffer(done.stdout, np.uint8, offset=start).reshape(*answer["size"], 3)
    except (subprocess.TimeoutExpired, ValueError):  # it may end at any time, also between two pixels
        raise InputError(decoder.UNREADABLE) from None
    raise InputError(answer["message"])


def _decoder() -> list[str]:
    """Command line of a decoder."""
    return [sys.executable, "-P", decoder.__file__, images.__file__, str(decoder.MEMORY), str(decoder.SECONDS)]


@renamed(large="mode", path="file")
def segment(
    predictors, file: bytes | str | Path, mode: str | None = None, flip: bool = False, progress=lambda *_: None
) -> str:
    """Segment a photograph with each network, and render the result as HTML: masks over it, areas and times.

    Args:
        predictors: Networks loaded with :func:`unet.load`.
        file: Content of an image file, or its path.
        mode: ``"resize"``, ``"tile"`` or ``None``, see :class:`unet.inference.Options`.
        flip: Whether to average with the mirrored photograph.
        progress: Called with the share of the networks that have finished and the name of the next one.

    Raises:
        InputError: The file cannot be used.
    """
    pixels = read_photograph(file)
    shown = Image.fromarray(pixels)
    shown.thumbnail((SHOWN, SHOWN))
    networks, masks = [], []
    for index, predictor in enumerate(predictors):
        progress(index / len(predictors), predictor.name)
        start = time.perf_counter()
        mask = np.asarray(predictor.predict(pixels, mode=mode, flip=flip))
        seconds = time.perf_counter() - start
        shares = 100 * class_counts(mask)[: len(predictor.metadata.classes)] / mask.size
        layer = figures.paletted(mask, colour_table(predictor.metadata.colours))
        networks.append(describe(predictor, shares) | {"mask": _layer(layer, shown.size), "seconds": seconds})
        masks.append(mask)
    result = {"size": pixels.shape[1::-1], "photograph": _data_url(shown, "JPEG", quality=90)}
    if len(masks) > 1 and len({predictor.metadata.classes for predictor in predictors}) == 1:
        same = np.all([mask == masks[0] for mask in masks[1:]], axis=0)
        layer = Image.fromarray(same.astype(np.uint8))
        layer.putpalette([0, 0, 0, 0, 0, 0, 0, 255], "RGBA")  # transparent where they differ, black elsewhere
        result |= {"agreement": 100 * same.mean(), "agreement_mask": _layer(layer, shown.size)}
    return render("result.html.j2", networks=networks, **result)


def render(template: str, **content) -> str:
    """Render a template of ``templates/``; whatever is inserted is escaped."""
    return _TEMPLATES.get_template(template).render(content)


def describe(predictor, shares=None) -> dict:
    """Description of a network for the template, with the share of each class in per cent."""
    metadata = predictor.metadata
    shares = [None] * len(metadata.classes) if shares is None else shares
    return {
        "name": predictor.name,
        "upsampler": metadata.upsampler,
        "trained_at": metadata.size,
        "sampling": metadata.sampling,
        "areas": list(zip(metadata.classes, metadata.colours, shares, strict=True)),
    }


def _layer(classes: Image.Image, size: tuple[int, int]) -> str:
    return _data_url(classes.resize(size, Image.Resampling.NEAREST), "PNG")


def _data_url(picture: Image.Image, file_format: str, **options) -> str:
    """A picture embedded in the page, so that none is written to disk."""
    file = io.BytesIO()
    picture.save(file, file_format, **options)
    return f"data:image/{file_format.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("unet.page"), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
