"""Masks from COCO instance annotations: polygons and run lengths, decoded by pycocotools."""

import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from unet import records
from unet.data.masks import BadMask
from unet.data.sources import IGNORE
from unet.errors import InputError, nearest, shortened
from unet.files import open_file
from unet.settings import BY_KIND, BY_TEXT, OF_MAPPING, OF_OTHER, OF_TEXT

MAX_SIDE = 2**16
"""Largest height and width of an image."""
MAX_BYTES = 2**32
"""Largest size of a file."""

Polygon = list[Annotated[float, Field(ge=-2 * MAX_SIDE, le=2 * MAX_SIDE)]]
"""x and y of each corner in turn, in pixels from the top left."""
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]


class RunLengths(TypedDict):
    """Lengths of runs of pixels outside and inside in turn, down the columns; as text in COCO's compression."""

    counts: Annotated[
        Annotated[str, OF_TEXT] | Annotated[list[Annotated[int, Field(ge=0, le=MAX_SIDE**2)]], OF_OTHER], BY_TEXT
    ]
    size: tuple[Side, Side]


class Image(TypedDict):
    """An image of a COCO file."""

    id: int
    file_name: str
    height: Side
    width: Side


class Category(TypedDict):
    """A category of a COCO file."""

    id: int
    name: str


class Annotation(TypedDict, total=False):
    """The region of an object, or of a crowd of them."""

    image_id: int
    category_id: int
    segmentation: Annotated[Annotated[RunLengths, OF_MAPPING] | Annotated[list[Polygon], OF_OTHER], BY_KIND]
    iscrowd: int


class _Content(TypedDict):
    images: list[Image]
    categories: list[Category]
    annotations: list[Annotation]


class CocoFile:
    """A file of COCO instance annotations.

    Args:
        path: The JSON file.

    Raises:
        InputError: It cannot be read, is not of this kind, or pycocotools is not installed.
    """

    def __init__(self, path: Path):
        self.path = path
        try:
            import pycocotools.mask
        except ImportError:
            raise InputError(f"{path}: needs pycocotools to be read: pip install '.[coco]'") from None
        self._decoder = pycocotools.mask
        content = _read(path)
        self.categories = {category["id"]: category["name"] for category in content["categories"]}
        self.images = {image["id"]: image for image in content["images"]}
        self._annotations: dict[int, list[Annotation]] = {}
        for annotation in content["annotations"]:
            if "segmentation" in annotation:
                self._annotations.setdefault(annotation.get("image_id", -1), []).append(annotation)

    def check_classes(self, classes: tuple[str, ...]) -> None:
        """Check that all classes but one, the background, are categories of the file.

        Raises:
            InputError: Several are not.
        """
        known = set(self.categories.values())
        others = [name for name in classes if name not in known]
        if len(others) > 1:
            hints = ", ".join(f"{name}{nearest(name, sorted(known))}" for name in others)
            raise InputError(
                f"data.folder.classes: not categories of {self.path}: {hints}. At most one class may be none, for "
                f"pixels without annotation (categories: {shortened(', '.join(sorted(known)), 500)})"
            )

    def mask(self, image: int, classes: tuple[str, ...]) -> np.ndarray:
        """Class ids of an image's pixels, uint8 ``(H, W)``.

        Of overlapping annotations the smallest is on top. Crowds are ignored, except where single objects are on them.
        Pixels without annotation have the class that is no category of the file; without such a class they are
        ignored. Annotations of other categories do not count.

        Args:
            image: Its id in the file.
            classes: Class names in the order of their ids.

        Raises:
            BadMask: An annotation cannot be decoded, or has another size than the image.
        """
        height, width = self.images[image]["height"], self.images[image]["width"]
        known = set(self.categories.values())
        ids = {name: index for index, name in enumerate(classes)}
        background = next((index for name, index in ids.items() if name not in known), IGNORE)
        regions = []
        for annotation in self._annotations.get(image, []):
            name = self.categories.get(annotation.get("category_id", -1))
            if name in ids:
                region = self._region(annotation["segmentation"], height, width)
                crowd = bool(annotation.get("iscrowd", 0))
                regions.append((not crowd, -int(region.sum()), region, IGNORE if crowd else ids[name]))
        mask = np.full((height, width), background, np.uint8)
        for _, _, region, value in sorted(regions, key=lambda entry: entry[:2]):
            mask[region] = value
        return mask

    def _region(self, segmentation: Any, height: int, width: int) -> np.ndarray:
        """Pixels of an annotation, bool ``(H, W)``."""
        if isinstance(segmentation, dict):
            counts = segmentation["counts"]
            counts = run_lengths(counts) if isinstance(counts, str) else counts
            # The decoder does not notice runs that end early.
            if tuple(segmentation["size"]) != (height, width) or sum(counts) != height * width or min(counts) < 0:
                raise BadMask("has an annotation of another size than its image")
            segmentation = {"counts": counts, "size": [height, width]}
        else:
            segmentation = [polygon for polygon in segmentation if len(polygon) >= 6]  # others have no area
            if not segmentation:
                return np.zeros((height, width), bool)
        encoded = self._decoder.frPyObjects(segmentation, height, width)
        decoded = self._decoder.decode(self._decoder.merge(encoded) if isinstance(encoded, list) else encoded)
        return decoded.astype(bool)


def run_lengths(text: str) -> list[int]:
    """Run lengths from COCO's compression: differences to the last but one, in groups of 5 bits.

    Raises:
        BadMask: The text is cut off, or contains other characters.
    """
    counts: list[int] = []
    value = shift = 0
    for character in text:
        group = ord(character) - 48
        if not 0 <= group < 64 or shift > 30:
            raise BadMask("has an annotation that cannot be decoded")
        value |= (group & 31) << shift
        shift += 5
        if not group & 32:  # the last group, whose highest bit is the sign
            value -= (group & 16) << (shift - 4)
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise BadMask("has an annotation that cannot be decoded")
    return counts


class CocoMask:
    """The mask of one image of a COCO file, in place of a mask file.

    Args:
        file: The file.
        image: Id of the image.
    """

    def __init__(self, file: CocoFile, image: int):
        self.file, self.image = file, image

    def __str__(self):
        return f"{self.file.path}, image {shortened(self.file.images[self.image]['file_name'])}"


def is_coco(masks: str) -> bool:
    """Whether the place of masks is a file of annotations instead of a folder."""
    return masks.lower().endswith(".json")


def entries(file: CocoFile) -> Iterator[tuple[str, CocoMask]]:
    """Path of every image in a file, and its mask."""
    return ((image["file_name"].replace("\\", "/"), CocoMask(file, key)) for key, image in file.images.items())


@functools.cache
def _adapter() -> TypeAdapter:
    return TypeAdapter(_Content)


def _read(path: Path) -> _Content:
    try:
        with open_file(path) as file:
            text = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    if len(text) > MAX_BYTES:
        raise InputError(f"{path}: is larger than {MAX_BYTES:,} bytes")
    try:
        return _adapter().validate_json(text)
    except ValidationError as error:
        raise InputError(
            f"{path}: is not a file of COCO instance annotations (images, categories, annotations): "
            f"{records.reason(error)}"
        ) from None
