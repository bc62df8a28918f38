"""Images and masks from a folder: your own, or the official Oxford-IIIT Pets archive."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from unet.config import FolderConfig
from unet.data.images import IMAGE_ENDINGS, read_image
from unet.data.pets import CLASSES as PETS_CLASSES
from unet.data.sources import IGNORE, Problem, Sample, draw
from unet.errors import InputError, nearest


@dataclass(frozen=True)
class _Pair:
    name: str
    split: str
    image: Path
    mask: Path


class FolderSource:
    """Pairs of files matched by name.

    Two layouts are known. ``images/`` and ``masks/`` (the names are settings) with the same relative names; and the
    official Pets archive (``images/NAME.jpg``, ``annotations/trimaps/NAME.png``, ``annotations/trainval.txt`` and
    ``test.txt``), recognised by its trimaps.

    Args:
        data_dir: The folder.
        config: The folder section of the configuration.
        validation: Share of the training images held out where no split file says which.

    Raises:
        InputError: The folder, a split file or the class names are missing.
    """

    def __init__(self, data_dir: Path, config: FolderConfig, validation: float):
        self.root = Path(data_dir).expanduser()
        if not self.root.is_dir():
            raise InputError(
                f"data.data_dir: there is no folder {self.root}; if the data have moved, give data.data_dir=NEW"
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
        self._reader = _MaskReader(marks, None if self.is_pets_archive else config.ignore)

    # === What is there ===

    def key(self) -> dict:
        """Name, size and time of every file, and how masks are read."""
        files = []
        for pair in self._pairs:
            files.append([pair.name, pair.split, *_stamp(pair.image), *_stamp(pair.mask)])
        return {
            "source": "folder",
            "root": str(self.root.resolve()),
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
        with ThreadPoolExecutor() as pool:
            for start in range(0, len(pairs), 256):  # a bounded number of decoded images waits at a time
                for results in pool.map(self._read, pairs[start : start + 256]):
                    yield from results

    # === Finding pairs ===

    def _folder_pairs(self) -> list[_Pair]:
        images, masks = (self._listing(kind) for kind in (self.config.images, self.config.masks))
        if not images:
            raise InputError(
                f"{self.root / self.config.images}: holds no image ({', '.join(IMAGE_ENDINGS)}); expected "
                f"{self.config.images}/NAME.jpg and {self.config.masks}/NAME.png"
            )
        for name in sorted(images.keys() - masks.keys()):
            hint = nearest(name, masks)
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
        """Files below a folder by relative name without ending."""
        root = self.root / folder
        if not root.is_dir():
            there = sorted(path.name for path in self.root.iterdir() if path.is_dir())
            raise InputError(
                f"{root}: there is no such folder{nearest(folder, there)} "
                f"(data.data_dir holds: {', '.join(there) or 'no folder'}; the names are set by "
                "data.folder.images and data.folder.masks)"
            )
        listing: dict[str, Path] = {}
        for path in sorted(root.rglob("*")):
            if path.is_dir() or path.name.startswith("."):
                continue
            name = str(path.relative_to(root).with_suffix(""))
            if path.suffix.lower() not in IMAGE_ENDINGS:
                self._problems.append(
                    Problem("not an image", str(path), "is not an image file and is passed over", fatal=False)
                )
            elif name in listing:
                self._problems.append(
                    Problem("same name", str(path), f"has the same name as {listing[name].name}: keep one of the two")
                )
            else:
                listing[name] = path
        return listing

    def _splits(self, names: list[str]) -> dict[str, str]:
        """Which split each name belongs to."""
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
                        message = f"{name} stands in the lists of {assigned[name]} and {split}"
                        self._problems.append(Problem("in two splits", str(self.root / file), message))
                    assigned[name] = split
            training = [name for name, split in assigned.items() if split == "train"]
        if not files["validation"]:
            assigned |= dict.fromkeys(draw(training, self.validation, "validation"), "validation")
        return assigned

    def _read_list(self, file: str, names: set[str]) -> list[str]:
        path = self.root / file
        if not path.is_file():
            lists = sorted(str(p.relative_to(self.root)) for p in self.root.rglob("*.txt"))
            raise InputError(
                f"{path}: there is no such split file{nearest(file, lists)} "
                f"(text files in data.data_dir: {', '.join(lists[:8]) or 'none'})"
            )
        listed = []
        for number, entry in _entries(path):
            known = next((n for n in (entry, str(Path(entry).with_suffix(""))) if n in names), None)
            if known is None:
                message = f"line {number}: {entry} is not an image with a mask{nearest(entry, names)}"
                self._problems.append(Problem("unknown name", str(path), message))
            else:
                listed.append(known)
        return listed

    def _archive_pairs(self) -> list[_Pair]:
        pairs = []
        for official, file in (("train", "trainval.txt"), ("test", "test.txt")):
            path = self.root / "annotations" / file
            if not path.is_file():
                raise InputError(f"{path}: missing; the Pets archive has its splits in annotations/{file}")
            names = [entry.split()[0] for _, entry in _entries(path)]
            held_out = draw(names, self.validation, "validation") if official == "train" else set()
            for name in names:
                image = self.root / "images" / f"{name}.jpg"
                mask = self.root / "annotations" / "trimaps" / f"{name}.png"
                absent = [p for p in (image, mask) if not p.is_file()]
                for p in absent:
                    self._problems.append(Problem("missing file", str(p), f"is listed in {file} but not there"))
                if not absent:
                    pairs.append(_Pair(name, "validation" if name in held_out else official, image, mask))
        return sorted(pairs, key=lambda pair: pair.name)

    def _ask_for_classes(self) -> str:
        """Say that class names are missing, and what the masks hold, so that the line can be written."""
        values: set = set()
        for pair in self._pairs[:50]:
            try:
                values |= {value for _, value in Image.open(pair.mask).getcolors(2**16) or ()}
            except OSError:
                continue
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
            problems.append(Problem("unreadable image", str(pair.image), f"cannot be read as an image ({error})"))
        try:
            mask = self._reader.read(pair.mask)
        except OSError as error:
            problems.append(Problem("unreadable mask", str(pair.mask), f"cannot be read as an image ({error})"))
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
    """Lines of a split file with their numbers, without empty lines and comments."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not a text file; expected one image name a line") from None
    stripped = ((number, line.strip()) for number, line in enumerate(lines, start=1))
    return [(number, line) for number, line in stripped if line and not line.startswith("#")]


def _stamp(path: Path) -> tuple[int, int]:
    """Size and time of a file; of a broken link, which reading will complain of, (-1, -1)."""
    try:
        stat = path.stat()
    except OSError:
        return -1, -1
    return stat.st_size, stat.st_mtime_ns


class _MaskReader:
    """Turns mask files into class ids by the value or colour that stands for each class."""

    def __init__(self, marks: dict, ignore):
        self.marks = marks
        self.by_colour = any(isinstance(mark, tuple) for mark in marks.values())
        # A grey value to ignore (the default is 255) means nothing among colours, nor if it is a class.
        means_nothing = isinstance(ignore, tuple) != self.by_colour or ignore in marks.values()
        self.ignore = None if means_nothing else ignore
        self.table = np.full(256, -1, np.int16)
        if not self.by_colour:
            if self.ignore is not None:
                self.table[self.ignore] = IGNORE
            for index, mark in enumerate(marks.values()):
                self.table[mark] = index

    def read(self, path: Path) -> np.ndarray:
        """Class ids, uint8 ``(H, W)``; raises ValueError where the pixels do not name classes."""
        try:
            with Image.open(path) as image:
                image.load()
                if self.by_colour:
                    return self._from_colours(np.asarray(image.convert("RGB")))
                if image.mode not in ("L", "P", "1"):
                    raise _WrongMask(self._wrong_mode(image.mode))
                pixels = np.asarray(image.convert("L") if image.mode == "1" else image).astype(np.uint8)
                if image.mode == "1" and 255 not in self.marks.values():
                    pixels = pixels // 255
        except _WrongMask:
            raise
        except (ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise OSError(str(error)) from error
        ids = self.table[pixels]
        if (ids < 0).any():
            wrong = np.unique(pixels[ids < 0])
            raise _WrongMask(
                f"holds {'values' if len(wrong) > 1 else 'the value'} {', '.join(map(str, wrong[:8]))}"
                f"{', …' if len(wrong) > 8 else ''} in {(ids < 0).mean():.1%} of its pixels; allowed: {self._allowed()}"
            )
        if (ids == IGNORE).any() and set(np.unique(pixels)) == {0, 255} and len(self.marks) == 2:
            raise _WrongMask(
                "holds only 0 and 255, and 255 is ignored; if 255 is the second class, write "
                f"data.folder.classes='{{{', '.join(f'{n}: {v}' for n, v in zip(self.marks, (0, 255)))}}}'"
            )
        return ids.astype(np.uint8)

    def _from_colours(self, pixels: np.ndarray) -> np.ndarray:
        codes = pixels.astype(np.int32) @ np.array([65536, 256, 1])
        known = {mark: index for index, mark in enumerate(self.marks.values())}
        if self.ignore is not None:
            known[self.ignore] = IGNORE
        table = np.array([r * 65536 + g * 256 + b for r, g, b in known])
        order = np.argsort(table)
        place = np.clip(np.searchsorted(table[order], codes), 0, len(table) - 1)
        found = table[order][place] == codes
        if not found.all():
            colours, counts = np.unique(codes[~found], return_counts=True)
            shown = [f"[{c >> 16}, {c >> 8 & 255}, {c & 255}]" for c in colours[np.argsort(-counts)][:4]]
            raise _WrongMask(
                f"holds {len(colours)} colour(s) that stand for no class, most often {', '.join(shown)}; "
                f"allowed: {self._allowed()} (masks must be saved without compression loss: PNG, not JPEG)"
            )
        return np.array(list(known.values()), np.uint8)[order][place]

    def _wrong_mode(self, mode: str) -> str:
        if mode in ("RGB", "RGBA", "CMYK", "YCbCr", "LA", "PA"):
            return (
                f"is a colour image ({mode}) but the classes are given as ids; expected one channel of ids, or give "
                "the colour of each class: data.folder.classes='{name: [r, g, b], ...}'"
            )
        return f"has {'16' if '16' in mode else '32'}-bit pixels ({mode}); expected 8-bit class ids (PNG, one channel)"

    def _allowed(self) -> str:
        allowed = [f"{list(m) if isinstance(m, tuple) else m} ({name})" for name, m in self.marks.items()]
        ignored = list(self.ignore) if isinstance(self.ignore, tuple) else self.ignore
        return ", ".join(allowed) + (f", {ignored} (ignored)" if ignored is not None else "")


class _WrongMask(ValueError):
    """The mask was read, but its pixels do not name classes."""
