"""Regions of the masks of many images in one file of COCO instance annotations."""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any, TextIO

import numpy as np

from unet.colours import colour_table
from unet.data.heads import CLASSES, Head
from unet.files import replacing
from unet.inference.polygons import trace


class CocoWriter:
    """Adds images to a file; see :func:`writing_coco`.

    Args:
        file: The file, to which the annotations are written at once, so that memory does not grow with the images.
        classes: Class names in the order of their ids.
        colours: Colour of each class, as ``"#RRGGBB"``.
        head: What the values of masks mean.
    """

    def __init__(self, file: TextIO, classes: Sequence[str], colours: Sequence[str], head: Head = CLASSES):
        self._file, self._head = file, head
        self._categories = [
            {"id": index, "name": name, "color": colour.tolist()}
            for index, (name, colour) in enumerate(zip(classes, colour_table(colours)))
        ]
        self._images: list[dict[str, Any]] = []
        self._annotations = 0
        file.write('{"annotations": [')

    def add(self, name: PurePath, mask: np.ndarray) -> None:
        """Add an image and the regions of its mask, largest first.

        Args:
            name: Its ``file_name``.
            mask: Class ids, or sets of labels, uint8 ``(H, W)``.
        """
        height, width = mask.shape
        self._images.append(
            {"id": len(self._images) + 1, "file_name": name.as_posix(), "width": width, "height": height}
        )
        for region in trace(mask, len(self._categories), self._head):
            rings = [np.asarray(ring, np.int64) for ring in region.rings]
            left, top = rings[0].min(0)
            right, bottom = rings[0].max(0)
            annotation = {
                "id": self._annotations + 1,
                "image_id": len(self._images),
                "category_id": region.category,
                "segmentation": segmentation(rings, height, width),
                "bbox": [int(left), int(top), int(right - left), int(bottom - top)],
                "area": region.area,
                "iscrowd": 0,
            }
            self._file.write((",\n" if self._annotations else "\n") + json.dumps(annotation))
            self._annotations += 1

    def finish(self) -> None:
        """Write what belongs to all images."""
        rest = json.dumps({"images": self._images, "categories": self._categories})
        self._file.write(f"\n],\n{rest[1:]}\n")


@contextlib.contextmanager
def writing_coco(
    path: Path, classes: Sequence[str], colours: Sequence[str], head: Head = CLASSES
) -> Iterator[CocoWriter]:
    """Write a file of COCO instance annotations; it appears, and replaces an earlier one, if the block succeeds.

    Every connected region of every class is an annotation. The ``category_id`` is the class id, so 0 is a category too.

    Args:
        path: The file.
        classes: Class names in the order of their ids.
        colours: Colour of each class, as ``"#RRGGBB"``.
        head: What the values of masks mean. Regions of different labels may overlap.

    Raises:
        RunError: The file cannot be written.
    """
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8") as file:
        writer = CocoWriter(file, classes, colours, head)
        yield writer
        writer.finish()


def segmentation(rings: list[np.ndarray], height: int, width: int) -> list[list[int]] | dict[str, list[int]]:
    """A region as COCO has it: a polygon, or run lengths if it has holes, which COCO's polygons cannot have.

    Args:
        rings: Corners ``(N, 2)`` of the outline and of each hole, in pixels, along rows and columns.
        height: Height of the image.
        width: Width of the image.
    """
    if len(rings) == 1:
        return [rings[0][:-1].ravel().tolist()]
    return {"size": [height, width], "counts": run_lengths(rings, height, width)}


def run_lengths(rings: list[np.ndarray], height: int, width: int) -> list[int]:
    """Lengths of runs of pixels outside and inside in turn, down the columns, between rings along rows and columns.

    On the way down a column, every horizontal edge leads from outside to inside or back.
    """
    crossings = []
    for ring in rings:
        start, stop = np.sort([ring[:-1, 0], ring[1:, 0]], axis=0)
        lengths = stop - start  # 0 for vertical edges
        columns = np.repeat(stop - lengths.cumsum(), lengths) + np.arange(lengths.sum())
        crossings.append(columns * height + np.repeat(ring[:-1, 1], lengths))
    places, times = np.unique(np.concatenate(crossings), return_counts=True)
    # Twice means that a run goes on from the bottom of a column to the top of the next.
    ends = [0, *places[times % 2 == 1].tolist(), height * width]
    counts = np.diff(ends).tolist()
    return counts if counts[-1] else counts[:-1]
