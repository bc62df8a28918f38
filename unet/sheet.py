"""The contact sheet of a data set as a self-contained HTML page."""

from collections.abc import Sequence

import jinja2
import numpy as np
from PIL import Image

from unet import figures
from unet.console import escaped
from unet.data.checks import Contents
from unet.data.sources import IGNORE, Problem, Sample

SIZES = 10
"""Most image sizes that are listed one by one."""


def as_html(
    title: str, contents: Contents, samples: Sequence[Sample], problems: Sequence[Problem], table: np.ndarray
) -> str:
    """A page that needs no other file: what the data hold, problems, and images under their masks.

    Args:
        title: Title of the page.
        contents: What all samples hold.
        samples: The images that are shown, small.
        problems: What is wrong with the data.
        table: Colours by value, uint8 ``(256, 3)``, from :meth:`unet.data.heads.Head.table`.
    """
    head = contents.head
    values = [*map(head.value, range(len(contents.classes))), IGNORE]
    colours = ["#{:02x}{:02x}{:02x}".format(*colour) for colour in table[values]]
    sizes = contents.sizes.most_common(SIZES)
    others = sum(contents.sizes.values()) - sum(count for _, count in sizes)
    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("unet"), autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    return templates.get_template("sheet.html.j2").render(
        title=escaped(title),
        lines=contents.lines(),
        problems=problems,
        classes=list(zip(contents.rows(), colours, strict=True)),
        sizes=[*sizes, *([(f"{len(contents.sizes) - SIZES:,} other sizes", others)] if others else [])],
        pictures=[
            {
                "name": escaped(sample.name),
                "split": sample.split,
                "source": figures.data_url(
                    Image.fromarray(figures.overlay(sample.image, sample.mask, table, head=head))
                ),
            }
            for sample in samples
        ],
    )
