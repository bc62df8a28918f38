"""Images and masks from a folder: your own, or the official Oxford-IIIT Pets archive."""

import contextlib
import os
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from unet.config import FolderConfig, SplitFolders
from unet.config.schema import is_plain
from unet.data.coco import CocoFile, CocoMask, entries, is_coco
from unet.data.images import IMAGE_ENDINGS, RGB, PixelFormat, WrongPixels, load_image
from unet.data.masks import BadMask, LabelMasks, LabelReader, MaskReader
from unet.data.pets import CLASSES as PETS_CLASSES
from unet.data.sources import SPLITS, Problem, Sample, draw
from unet.errors import InputError, nearest, shortened
from unet.files import expanded, files_below, read_text

WORKERS = min(8, os.cpu_count() or 1)
"""Threads that decode images; as many images are in memory at a time."""
HINTS = 3
"""Closest matches are searched for this number of unknown names."""
MAX_LIST_BYTES = 2**26
"""Largest size of a split file."""
LAYOUT = {"images", "masks", "image_suffix", "mask_suffix", *SPLITS}
"""Settings that decide which file is which."""

_Mask = Path | CocoMask | LabelMasks
_Files = tuple[Path, _Mask]
"""An image and its mask."""


@dataclass(frozen=True)
class _Pair:
    name: str
    split: str
    image: Path
    mask: _Mask


class _NotThere(Exception):
    """A line of a list names no pair; the message says why."""

    def __init__(self, kind: str, message: str, cause: str):
        super().__init__(message)
        self.kind = kind
        self.cause = cause


class FolderSource:
    """Pairs of image and mask files, matched by name.

    Images and masks are in two folders, or in two folders for each split, or are listed in text files: see
    :class:`~unet.config.FolderConfig`. The official Pets archive (``images/NAME.jpg``,
    ``annotations/trimaps/NAME.png``, ``annotations/trainval.txt`` and ``test.txt``) is recognized by its trimaps.

    Args:
        data_dir: The folder.
        config: The folder section of the configuration.
        validation: Share of the training images held out for validation if there is no split file for it.
        pixels: Channels and type of the images.

    Raises:
        InputError: The folder, a split file or the class names are missing.
    """

    def __init__(self, data_dir: Path, config: FolderConfig, validation: float, pixels: PixelFormat = RGB):
        self.root = expanded(data_dir)
        if not os.path.isdir(self.root):
            raise InputError(
                f"data.data_dir: there is no folder {shortened(str(self.root))}; if the data have moved, give "
                "data.data_dir=NEW"
            )
        self.config = config
        self.validation = validation
        self.pixels = pixels
        named = config.classes is not None or config.labels is not None
        self.is_pets_archive = not named and (self.root / "annotations" / "trimaps").is_dir()
        self._problems: list[Problem] = []
        self._hints = HINTS
        self._coco: dict[Path, CocoFile] = {}
        if self.is_pets_archive:
            marks: dict = {name: label for label, name in enumerate(PETS_CLASSES, start=1)}
            self._pairs = self._archive_pairs()
        else:
            self._pairs = self._folder_pairs()
            marks = config.classes or {label: 1 << index for index, label in enumerate(config.labels or ())}
            if not marks:
                raise InputError(self._ask_for_classes())
        self.marks = marks
        self.classes = tuple(marks)
        for file in self._coco.values():
            file.check_classes(self.classes)
        ignore = None if self.is_pets_archive else config.ignore
        self._reader = LabelReader(ignore) if config.labels else MaskReader(marks, ignore)

    # === Source ===

    def key(self) -> dict:
        """Name, size and modification time of every file, and how masks are read."""
        files = []
        for pair in self._pairs:
            files.append([pair.name, pair.split, *_stamp(pair.image), *_stamp(pair.mask)])
        return {
            "source": "folder",
            "root": os.path.realpath(self.root),
            "classes": dict(self.marks),
            "ignore": self._reader.ignored[0] if len(self._reader.ignored) == 1 else self._reader.ignored or None,
            "layout": self.config.model_dump(mode="json", include=LAYOUT, exclude_defaults=True),
            **({} if self.pixels.is_rgb else {"pixels": str(self.pixels)}),
            "files": files,
            "missing": [str(problem) for problem in self._problems],
        }

    def count(self) -> int | None:
        """Number of pairs."""
        return len(self._pairs)

    def samples(self, split: str | None = None) -> Iterator[Sample | Problem]:
        """Decode every pair, several at a time, in the order of their names."""
        if split is None:
            yield from self._problems
        pairs = [pair for pair in self._pairs if split in (None, pair.split)]
        with ThreadPoolExecutor(WORKERS) as pool:
            waiting = deque(pool.submit(self._read, pair) for pair in pairs[:WORKERS])
            for following in [*pairs[WORKERS:], *[None] * len(waiting)]:
                yield from waiting.popleft().result()
                if following:  # only now: decoded images take much memory
                    waiting.append(pool.submit(self._read, following))

    # === Finding pairs ===

    def _folder_pairs(self) -> list[_Pair]:
        files: dict[str, _Files] = {}
        splits: dict[str, str] = {}
        places = {split: place for split in SPLITS if (place := getattr(self.config, split)) is not None}
        if not places:
            files = self._matched(self.config)
            test = draw(list(files), self.config.test_fraction, "test")
            splits = {name: "test" if name in test else "train" for name in files}
        for split, place in places.items():
            by_folder = isinstance(place, SplitFolders)
            found = self._matched(place, Path(place.images)) if by_folder else self._listed(place)
            for name in found.keys() & files.keys():
                where = str(self.root / (place.images if by_folder else place))
                message = f"{name} is in the {'folder' if by_folder else 'lists'} of both {splits[name]} and {split}"
                self._problems.append(Problem("in two splits", where, message))
            files |= found
            splits |= dict.fromkeys(found, split)
        if self.config.validation is None:
            training = [name for name, split in splits.items() if split == "train"]
            splits |= dict.fromkeys(draw(training, self.validation, "validation"), "validation")
        self._problems = list(dict.fromkeys(self._problems))  # two splits may use the same folder
        return [_Pair(name, splits[name], *files[name]) for name in sorted(files)]

    def _matched(self, place: FolderConfig | SplitFolders, prefix: Path = Path()) -> dict[str, _Files]:
        """Pairs of one folder of images and one of masks, by relative name below ``prefix``."""
        images, masks = self._listings(place)
        for count, name in enumerate(sorted(images.keys() - masks.keys())):
            hint = nearest(name, masks) if count < HINTS else ""
            message = f"has no mask {self._mask_of(place, name)}{hint}"
            self._problems.append(
                Problem("missing mask", str(images[name]), message, cause=f"has no mask {self._mask_of(place, 'NAME')}")
            )
        for name in sorted(masks.keys() - images.keys()):
            message = "is a mask without an image of that name"
            self._problems.append(Problem("missing image", str(masks[name]), message, False, message))
        return {str(prefix / name): (images[name], masks[name]) for name in sorted(images.keys() & masks.keys())}

    def _mask_of(self, place: FolderConfig | SplitFolders, name: str) -> str:
        folders = place.masks.values() if isinstance(place.masks, dict) else [place.masks]
        return " or ".join(f"{folder}/{name}{self.config.mask_suffix}.png" for folder in folders)

    def _listings(self, place: FolderConfig | SplitFolders) -> tuple[dict[str, Path], Mapping[str, _Mask]]:
        """Images and masks by relative name, without suffix and ending."""
        if isinstance(place.masks, dict):
            images: dict[str, Path] = {}
            found: list[Mapping[str, Any]] = []
            for folder in place.masks.values():
                images, of_label = self._listings(SplitFolders(images=place.images, masks=folder))
                found.append(of_label)
            names = sorted({name for of_label in found for name in of_label})
            return images, {name: LabelMasks(tuple(of_label.get(name) for of_label in found)) for name in names}
        if is_coco(place.masks):
            return self._annotated(place)
        suffixes = self.config.image_suffix, self.config.mask_suffix
        images, masks = (self._listing(folder) for folder in (place.images, place.masks))
        if place.images == place.masks:  # an empty suffix ends every name
            images = {name: path for name, path in images.items() if not (suffixes[1] and name.endswith(suffixes[1]))}
            masks = {name: path for name, path in masks.items() if not (suffixes[0] and name.endswith(suffixes[0]))}
        images, masks = (
            {name.removesuffix(suffix): path for name, path in listing.items() if name.endswith(suffix)}
            for listing, suffix in zip((images, masks), suffixes)
        )
        if not images:
            image, mask = (f"{folder}/NAME{suffix}" for folder, suffix in zip((place.images, place.masks), suffixes))
            raise InputError(
                f"{self.root / place.images}: holds no image ({', '.join(IMAGE_ENDINGS)}); expected {image}.jpg and "
                f"{mask}.png"
            )
        return images, masks

    def _annotated(self, place: FolderConfig | SplitFolders) -> tuple[dict[str, Path], dict[str, CocoMask]]:
        """Images that a COCO file lists, and their masks, by relative name."""
        assert isinstance(place.masks, str)  # a mapping from labels names folders only
        path = self.root / place.masks
        if path not in self._coco:
            if not os.path.isfile(path):
                files = sorted(str(p.relative_to(self.root)) for p in self.root.rglob("*.json"))
                there = f"(JSON files in data.data_dir: {', '.join(files[:8]) or 'none'})"
                raise InputError(
                    f"{path}: there is no such file of COCO annotations{nearest(place.masks, files)} {there}"
                )
            self._coco[path] = CocoFile(path)
        found = self._listing(place.images)
        images: dict[str, Path] = {}
        masks: dict[str, CocoMask] = {}
        for listed, mask in entries(self._coco[path]):
            name = next((n for tail in _tails(listed) if (n := str(Path(tail).with_suffix(""))) in found), None)
            if name is None:
                message = f"there is no image {shortened(listed)} in {place.images}"
                cause = f"lists an image that is not in {place.images}"
                self._problems.append(Problem("missing file", str(path), message, cause=cause))
            elif name in masks:
                self._problems.append(Problem("same name", str(path), f"lists the image {name} twice"))
            else:
                images[name], masks[name] = found[name], mask
        return images, masks

    def _listing(self, folder: str) -> dict[str, Path]:
        """Image files in a folder and its subfolders, by relative name without ending."""
        root = self.root / folder
        if not os.path.isdir(root):
            there = sorted(path.name for path in self.root.iterdir() if os.path.isdir(path))[:100]
            raise InputError(
                f"{root}: there is no such folder{nearest(folder, there)} "
                f"(data.data_dir holds: {', '.join(there) or 'no folder'}; the names are set by data.folder.images "
                "and data.folder.masks, or by split as data.folder.train={images: FOLDER, masks: FOLDER})"
            )
        listing: dict[str, Path] = {}
        for path in files_below(root):
            if path.name.startswith("."):
                continue
            name = str(path.relative_to(root).with_suffix(""))
            if not is_plain(name):
                message = "has a name with control characters, or that is not UTF-8: rename it"
                self._problems.append(Problem("bad name", str(path), message))
            elif path.suffix.lower() not in IMAGE_ENDINGS:
                message = "is not an image file and is skipped"
                self._problems.append(Problem("not an image", str(path), message, False, message))
            elif name in listing:
                self._problems.append(
                    Problem("same name", str(path), f"has the same name as {listing[name].name}: keep one of the two")
                )
            else:
                listing[name] = path
        return listing

    # === Lists ===

    def _listed(self, file: str) -> dict[str, _Files]:
        """Pairs that a text file lists."""
        path = self.root / file
        if not os.path.isfile(path):
            lists = sorted(str(p.relative_to(self.root)) for p in self.root.rglob("*.txt"))
            raise InputError(
                f"{path}: there is no such split file{nearest(file, lists)} "
                f"(text files in data.data_dir: {', '.join(lists[:8]) or 'none'})"
            )
        listed: dict[str, _Files] = {}
        for number, entry in _entries(path):
            columns = _columns(entry)
            try:
                listed |= self._paths(*columns) if columns else self._named(entry)
            except _NotThere as reason:
                self._problems.append(Problem(reason.kind, f"{path}, line {number}", str(reason), cause=reason.cause))
        return listed

    def _paths(self, image: str, mask: str) -> dict[str, _Files]:
        """The pair whose paths are on a line."""
        if self.config.labels:
            cause = "names a mask; if each label has a folder of masks, list the names of images only"
            raise _NotThere("unknown name", cause, cause)
        found = [self._inside(path) for path in (image, mask)]
        return {str(found[0].relative_to(self.root).with_suffix("")): (found[0], found[1])}

    def _inside(self, path: str) -> Path:
        """The file in data_dir that a path ends with: ``/SegNet/CamVid/train/a.png`` may be ``train/a.png`` there."""
        for tail in _tails(path):
            if os.path.isfile(self.root / tail):
                return self.root / tail
        cause = "names a file that is not in data.data_dir"
        raise _NotThere("missing file", f"there is no file {shortened(path)} in data.data_dir", cause)

    def _named(self, entry: str) -> dict[str, _Files]:
        """The pair whose name, with or without ending, is on a line."""
        images, masks = self._all_listings
        known = (name for tail in _tails(entry) for name in (tail, str(Path(tail).with_suffix(""))))
        name = next((name for name in known if name in images), None)
        if name is None:
            hint = nearest(entry, images) if self._hints > 0 else ""
            self._hints -= 1
            cause = f"is not the name of an image in {self.config.images}"
            raise _NotThere("unknown name", f"{shortened(entry)} is not an image with a mask{hint}", cause)
        if name not in masks:
            message, cause = (f"has no mask {self._mask_of(self.config, image)}" for image in (name, "NAME"))
            raise _NotThere("missing mask", f"{shortened(entry)} {message}", cause)
        return {name: (images[name], masks[name])}

    @cached_property
    def _all_listings(self) -> tuple[dict[str, Path], Mapping[str, _Mask]]:
        return self._listings(self.config)

    def _archive_pairs(self) -> list[_Pair]:
        pairs = []
        for official, file in (("train", "trainval.txt"), ("test", "test.txt")):
            path = self.root / "annotations" / file
            if not os.path.isfile(path):
                raise InputError(f"{path}: missing; the Pets archive lists its splits in annotations/{file}")
            names = [entry.split()[0] for _, entry in _entries(path)]
            held_out = draw(names, self.validation, "validation") if official == "train" else set()
            for name in names:
                image = self.root / "images" / f"{name}.jpg"
                mask = self.root / "annotations" / "trimaps" / f"{name}.png"
                absent = [p for p in (image, mask) if not os.path.isfile(p)]
                for p in absent:
                    self._problems.append(Problem("missing file", str(p), f"is listed in {file} but does not exist"))
                if not absent:
                    pairs.append(_Pair(name, "validation" if name in held_out else official, image, mask))
        return sorted(pairs, key=lambda pair: pair.name)

    def _ask_for_classes(self) -> str:
        """Message for missing class names, with the values found in the masks."""
        if self._coco:
            names = sorted({name for file in self._coco.values() for name in file.categories.values()})
            return (
                "data.folder.classes: missing; name a class for pixels without annotation, and categories of the COCO "
                f"file, as data.folder.classes='[background, {', '.join(names[:2])}]' (categories: "
                f"{shortened(', '.join(names), 500)})"
            )
        values: set = set()
        for pair in self._pairs[:50]:
            with contextlib.suppress(OSError):
                values |= {value for _, value in load_image(str(pair.mask)).getcolors(2**16) or ()}
        found = ", ".join(str(value) for value in sorted(values, key=str)[:20])
        return (
            "data.folder.classes: missing; name the classes in the order of their ids, as "
            "data.folder.classes='[background, object]', or map names to grey values or colours, as "
            f"'{{background: 0, object: 255}}' (the first masks hold the values {found or 'none'})"
        )

    # === Reading a pair ===

    def _read(self, pair: _Pair) -> list[Sample | Problem]:
        problems: list[Sample | Problem] = []
        try:
            image = self.pixels.read(pair.image)
        except WrongPixels as error:
            problems.append(Problem("wrong pixels", str(pair.image), str(error), cause=str(error)))
        except OSError as error:
            problems.append(
                Problem("unreadable image", str(pair.image), f"cannot be read as an image ({error.strerror or error})")
            )
        places = pair.mask.files if isinstance(pair.mask, LabelMasks) else (pair.mask,)
        masks: list[np.ndarray | None] = []
        mask_type = ""
        for place in places:
            mask = None
            try:
                if isinstance(place, CocoMask):
                    mask, mask_type = place.file.mask(place.image, self.classes), "COCO annotations"
                elif place is not None:
                    mask, mask_type = self._reader.read(place)
            except OSError as error:
                message = f"cannot be read as an image ({error.strerror or error})"
                problems.append(Problem("unreadable mask", str(place), message))
            except BadMask as error:
                problems.append(Problem("bad mask", str(place), str(error), cause=error.cause))
            masks.append(mask)
        if problems:
            return problems
        for place, mask in zip(places, masks, strict=True):
            if mask is not None and image.shape[:2] != mask.shape:
                (h, w), (mask_h, mask_w) = image.shape[:2], mask.shape
                message = f"is {mask_w}×{mask_h} pixels, its image is {w}×{h}: they must be the same size"
                return [Problem("wrong size", str(place), message, cause="has another size than its image")]
        if mask_type.startswith("JPEG"):
            message = "is a JPEG file, whose compression can change class ids unseen; save masks as PNG"
            problems.append(Problem("JPEG mask", str(pair.mask), message, False, message))
        labels = isinstance(pair.mask, LabelMasks)
        whole = LabelReader.together(masks) if labels else next(mask for mask in masks if mask is not None)
        return [*problems, Sample(pair.name, pair.split, image, whole, mask_type, labels)]


def _entries(path: Path) -> list[tuple[int, str]]:
    """Read the lines of a split file with their numbers, without empty lines and comments."""
    try:
        lines = read_text(path, MAX_LIST_BYTES).splitlines()
    except OSError as error:
        raise InputError(
            f"{path}: is not a text file ({error.strerror or error}); expected one image name per line"
        ) from None
    stripped = ((number, line.strip()) for number, line in enumerate(lines, start=1))
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]


def _columns(entry: str) -> tuple[str, str] | None:
    """Paths of image and mask on a line with two columns, separated by white space or a comma."""
    for separator in ("\t", ",", None):
        columns = [column.strip() for column in entry.split(separator)]
        if len(columns) == 2 and all(column.lower().endswith(IMAGE_ENDINGS) for column in columns):
            return columns[0], columns[1]
    return None


def _tails(path: str) -> Iterator[str]:
    """A relative path, and what remains of it without its first folders."""
    parts = PurePosixPath(path.lstrip("/")).parts
    return ("/".join(parts[start:]) for start in range(len(parts)))


def _stamp(path: _Mask | None) -> tuple[int, ...]:
    """Size and modification time of a file, or of several; (-1, -1) for a broken link, which reading will report."""
    if isinstance(path, LabelMasks):
        return tuple(number for file in path.files for number in _stamp(file))
    path = path.file.path if isinstance(path, CocoMask) else path
    if path is None:
        return 0, 0
    try:
        stat = path.stat()
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns
