"""Images and masks from a folder: your own, or the official Oxford-IIIT Pets archive."""

import contextlib
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from unet.config import FolderConfig
from unet.config.schema import is_plain
from unet.data.images import IMAGE_ENDINGS, load_image, read_image
from unet.data.masks import MaskReader
from unet.data.pets import CLASSES as PETS_CLASSES
from unet.data.sources import Problem, Sample, draw
from unet.errors import InputError, nearest, shortened
from unet.files import expanded, read_text

WORKERS = min(8, os.cpu_count() or 1)
"""Threads that decode images; as many images are in memory at a time."""
HINTS = 3
"""Closest matches are searched for this number of unknown names."""
MAX_LIST_BYTES = 2**26
"""Largest size of a split file."""


@dataclass(frozen=True)
class _Pair:
    name: str
    split: str
    image: Path
    mask: Path


class FolderSource:
    """Pairs of image and mask files, matched by name.

    Two layouts are supported: ``images/`` and ``masks/`` (configurable) with the same relative names, and the official
    Pets archive (``images/NAME.jpg``, ``annotations/trimaps/NAME.png``, ``annotations/trainval.txt`` and
    ``test.txt``), recognized by its trimaps.

    Args:
        data_dir: The folder.
        config: The folder section of the configuration.
        validation: Share of the training images held out for validation if there is no split file for it.

    Raises:
        InputError: The folder, a split file or the class names are missing.
    """

    def __init__(self, data_dir: Path, config: FolderConfig, validation: float):
        self.root = expanded(data_dir)
        if not os.path.isdir(self.root):
            raise InputError(
                f"data.data_dir: there is no folder {shortened(str(self.root))}; if the data have moved, give "
                "data.data_dir=NEW"
            )
        self.config = config
        self.validation = validation
        self.is_pets_archive = config.classes is None and (self.root / "annotations" / "trimaps").is_dir()
        self._problems: list[Problem] = []
        if self.is_pets_archive:
            marks: dict = {name: label for label, name in enumerate(PETS_CLASSES, start=1)}
            self._pairs = self._archive_pairs()
        else:
            self._pairs = self._folder_pairs()
            marks = config.classes or {}
            if not marks:
                raise InputError(self._ask_for_classes())
        self.classes = tuple(marks)
        self._reader = MaskReader(marks, None if self.is_pets_archive else config.ignore)

    # === Source ===

    def key(self) -> dict:
        """Name, size and modification time of every file, and how masks are read."""
        files = []
        for pair in self._pairs:
            files.append([pair.name, pair.split, *_stamp(pair.image), *_stamp(pair.mask)])
        return {
            "source": "folder",
            "root": os.path.realpath(self.root),
            "classes": dict(self._reader.marks),
            "ignore": self._reader.ignore,
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
        images, masks = (self._listing(kind) for kind in (self.config.images, self.config.masks))
        if not images:
            raise InputError(
                f"{self.root / self.config.images}: holds no image ({', '.join(IMAGE_ENDINGS)}); expected "
                f"{self.config.images}/NAME.jpg and {self.config.masks}/NAME.png"
            )
        for count, name in enumerate(sorted(images.keys() - masks.keys())):
            hint = nearest(name, masks) if count < HINTS else ""
            self._problems.append(
                Problem("missing mask", str(images[name]), f"has no mask {self.config.masks}/{name}.png{hint}")
            )
        for name in sorted(masks.keys() - images.keys()):
            self._problems.append(
                Problem("missing image", str(masks[name]), "is a mask without an image of that name", fatal=False)
            )
        names = sorted(images.keys() & masks.keys())
        splits = self._splits(names)
        return [_Pair(name, splits[name], images[name], masks[name]) for name in names if name in splits]

    def _listing(self, folder: str) -> dict[str, Path]:
        """Files in a folder and its subfolders, by relative name without suffix."""
        root = self.root / folder
        if not os.path.isdir(root):
            there = sorted(path.name for path in self.root.iterdir() if os.path.isdir(path))[:100]
            raise InputError(
                f"{root}: there is no such folder{nearest(folder, there)} "
                f"(data.data_dir holds: {', '.join(there) or 'no folder'}; the names are set by "
                "data.folder.images and data.folder.masks)"
            )
        listing: dict[str, Path] = {}
        for path in sorted(root.rglob("*")):
            if os.path.isdir(path) or path.name.startswith("."):
                continue
            name = str(path.relative_to(root).with_suffix(""))
            if not is_plain(name):
                message = "has a name with control characters, or that is not UTF-8: rename it"
                self._problems.append(Problem("bad name", str(path), message))
            elif path.suffix.lower() not in IMAGE_ENDINGS:
                self._problems.append(
                    Problem("not an image", str(path), "is not an image file and is skipped", fatal=False)
                )
            elif name in listing:
                self._problems.append(
                    Problem("same name", str(path), f"has the same name as {listing[name].name}: keep one of the two")
                )
            else:
                listing[name] = path
        return listing

    def _splits(self, names: list[str]) -> dict[str, str]:
        """Split of each name."""
        files = {split: getattr(self.config, split) for split in ("train", "validation", "test")}
        if not files["train"]:
            test = draw(names, self.config.test_fraction, "test")
            training = [name for name in names if name not in test]
            assigned = dict.fromkeys(test, "test") | dict.fromkeys(training, "train")
        else:
            assigned = {}
            for split, file in files.items():
                for name in self._read_list(file, set(names)) if file else ():
                    if name in assigned and assigned[name] != split:
                        message = f"{name} is in the lists of both {assigned[name]} and {split}"
                        self._problems.append(Problem("in two splits", str(self.root / file), message))
                    assigned[name] = split
            training = [name for name, split in assigned.items() if split == "train"]
        if not files["validation"]:
            assigned |= dict.fromkeys(draw(training, self.validation, "validation"), "validation")
        return assigned

    def _read_list(self, file: str, names: set[str]) -> list[str]:
        path = self.root / file
        if not os.path.isfile(path):
            lists = sorted(str(p.relative_to(self.root)) for p in self.root.rglob("*.txt"))
            raise InputError(
                f"{path}: there is no such split file{nearest(file, lists)} "
                f"(text files in data.data_dir: {', '.join(lists[:8]) or 'none'})"
            )
        listed = []
        hints = HINTS
        for number, entry in _entries(path):
            known = next((n for n in (entry, str(Path(entry).with_suffix(""))) if n in names), None)
            if known is None:
                hint = nearest(entry, names) if hints > 0 else ""
                hints -= 1
                message = f"line {number}: {shortened(entry)} is not an image with a mask{hint}"
                self._problems.append(Problem("unknown name", str(path), message))
            else:
                listed.append(known)
        return listed

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
        values: set = set()
        for pair in self._pairs[:50]:
            with contextlib.suppress(OSError):
                values |= {value for _, value in load_image(pair.mask).getcolors(2**16) or ()}
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
            image = read_image(pair.image)
        except OSError as error:
            problems.append(
                Problem("unreadable image", str(pair.image), f"cannot be read as an image ({error.strerror or error})")
            )
        try:
            mask = self._reader.read(pair.mask)
        except OSError as error:
            problems.append(
                Problem("unreadable mask", str(pair.mask), f"cannot be read as an image ({error.strerror or error})")
            )
        except ValueError as error:
            problems.append(Problem("bad mask", str(pair.mask), str(error)))
        if problems:
            return problems
        if image.shape[:2] != mask.shape:
            (h, w), (mask_h, mask_w) = image.shape[:2], mask.shape
            message = f"is {mask_w}×{mask_h} pixels, its image is {w}×{h}: they must be the same size"
            return [Problem("wrong size", str(pair.mask), message)]
        return [Sample(pair.name, pair.split, image, mask)]


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


def _stamp(path: Path) -> tuple[int, int]:
    """Size and modification time of a file; (-1, -1) for a broken link, which reading will report."""
    try:
        stat = path.stat()
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns
