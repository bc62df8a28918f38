"""The cache of prepared data: a source is decoded once into memory-mapped uint8 arrays, found by the source's key."""

import contextlib
import errno
import hashlib
import json
import logging
import mmap
import os
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from unet.console import track
from unet.data import checks
from unet.data.images import resize_image, resize_mask
from unet.data.sources import SPLITS, Problem, Sample, Source
from unet.errors import InputError, RunError
from unet.files import remove_unfinished, temporary_folder, write_json, writing

log = logging.getLogger("unet")

FORMAT = 1
"""Part of the cache key: increase it when the arrays, or the way they are made, change."""
LISTED = 20
"""Largest number of errors listed in one message."""


def digest(image: np.ndarray, mask: np.ndarray) -> str:
    """Digest of an image and its mask, 16 hexadecimal digits."""
    content = hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=8)
    content.update(np.ascontiguousarray(mask).data)
    return content.hexdigest()


@dataclass(frozen=True)
class Split:
    """Images and masks of one split, at the network's size, memory-mapped."""

    images: np.ndarray
    """uint8 ``(N, H, W, 3)``."""
    masks: np.ndarray
    """uint8 ``(N, H, W)``: class ids, 255 is ignored."""
    names: list[str]
    known_digests: list[str] | None = None
    """Digests stored when the arrays were written; ``None`` for arrays of earlier versions."""

    def __len__(self):
        return len(self.names)

    @cached_property
    def digests(self) -> list[str]:
        """Digest of each image with its mask."""
        return self.known_digests or [digest(*self.read(row)) for row in range(len(self.images))]

    @cached_property
    def pixels(self) -> np.ndarray:
        """Number of pixels of each class id, int64 ``(256,)``."""
        return sum((np.bincount(mask.ravel(), minlength=256) for mask in self.masks), np.zeros(256, np.int64))

    def read(self, rows: int | slice | np.ndarray | list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Copy images and masks into memory.

        Args:
            rows: Which ones, as in indexing.

        Raises:
            RunError: A file has become shorter since it was mapped; reading it would end the process with SIGBUS.
        """
        for array in (self.images, self.masks):
            _check_length(array)
        return np.array(self.images[rows]), np.array(self.masks[rows])

    def only(self, names: set[str]) -> "Split":
        """Load the images with these names into memory, in the same order."""
        rows = [row for row, name in enumerate(self.names) if name in names]
        known = self.known_digests and [self.known_digests[row] for row in rows]
        return Split(*self.read(rows), [self.names[row] for row in rows], known)


@dataclass(frozen=True)
class Dataset:
    """A prepared source."""

    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    problems: list[Problem]
    """Problems found while preparing the data that were not fatal."""


def prepare(source: Source, size: tuple[int, int], cache_dir: Path | None = None, verify: bool = False) -> Dataset:
    """Return the arrays of a source at ``size``, decoding it only if they are not in the cache yet.

    Images are resized bilinearly with antialiasing, masks to the nearest pixel. Damaged arrays are rebuilt.

    Args:
        source: Where images and masks come from.
        size: Height and width in pixels.
        cache_dir: Parent of the cache; default ``$UNET_CACHE``, else ``~/.cache/unet-upsamplers``.
        verify: Also read all arrays once, to compare them with their digests.

    Raises:
        InputError: Something is wrong with the data; the message lists every problem.
        RunError: The arrays cannot be written, for example because the disk is full.
    """
    try:
        parent = Path(cache_dir or os.environ.get("UNET_CACHE", "~/.cache/unet-upsamplers")).expanduser()
    except RuntimeError as error:
        raise InputError(f"data.cache_dir: {error} Set data.cache_dir or the variable UNET_CACHE") from None
    found = _existing(source, size, parent) or _build(source, size, parent)
    try:
        dataset = _open(found, verify)
    except _Damaged as damage:
        log.warning("%s: %s; preparing the data again", found, damage)
        dataset = _open(_build(source, size, parent, found), verify)
    if not len(dataset.train):
        raise InputError("data: there is no training image; check the split files, data.validation and test_fraction")
    return dataset


def inspect(source: Source, use: Callable[[Sample], None] = lambda sample: None) -> list[Problem]:
    """Decode the whole source, pass every sample to ``use``, and list everything that is wrong with them."""
    return _scan(source, use)


def _key(source: Source, size: tuple[int, int]) -> dict:
    return {"format": FORMAT, "size": list(size), **source.key()}


def _place(parent: Path, key: dict) -> Path:
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return parent / f"{key['source']}-{'x'.join(map(str, key['size']))}-{digest}"


def _existing(source: Source, size: tuple[int, int], parent: Path) -> Path | None:
    place = _place(parent, _key(source, size))
    return place if (place / "index.json").is_file() else None


def _build(source: Source, size: tuple[int, int], parent: Path, damaged: Path | None = None) -> Path:
    """Decode everything into a temporary folder, and move it to its place, which may hold damaged arrays."""
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(temporary_folder(parent))
            (folder / "new").mkdir()
        except (OSError, RunError) as error:
            raise InputError(f"data.cache_dir: {error}; set data.cache_dir elsewhere") from None
        remove_unfinished(parent)
        files = {split: _Writer(folder / "new", split, size) for split in SPLITS}
        problems = _scan(source, lambda sample: files[sample.split].add(sample))
        fatal = [problem for problem in problems if problem.fatal]
        if fatal:
            told = checks.grouped(fatal)
            lines = [f"  {problem}" for problem in told[:LISTED]]
            if len(told) > LISTED:
                lines.append(f"  and {len(told) - LISTED:,} more; list them with unet check-data")
            raise InputError(
                f"the data have {len(fatal)} error{'s' * (len(fatal) > 1)} ({checks.summary(fatal)}); nothing was "
                "prepared:\n" + "\n".join(lines)
            )
        for writer in files.values():
            writer.close()
        index = {
            "classes": list(source.classes),
            "names": {split: writer.names for split, writer in files.items()},
            "digests": {split: writer.digests for split, writer in files.items()},
            "problems": [asdict(problem) for problem in problems],
        }
        write_json(folder / "new" / "index.json", index)
        # The key is computed after decoding, because a download changes it.
        place = _place(parent, _key(source, size))
        with writing(place):
            if damaged is not None:
                with contextlib.suppress(FileNotFoundError):
                    os.rename(damaged, folder / "damaged")
            try:
                os.rename(folder / "new", place)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
                # Another process has just put the same arrays there.
        if problems:
            log.warning("the data have minor problems (%s); list them with unet check-data", checks.summary(problems))
        return place


def _scan(source: Source, use) -> list[Problem]:
    """Decode every sample, pass the readable ones to ``use``, and collect all problems."""
    problems: list[Problem] = []
    names, splits, thumbnails = [], [], []
    for item in track(source.samples(), total=source.count(), description="reading images"):
        if isinstance(item, Problem):
            problems.append(item)
            continue
        problems += checks.inspect_sample(item, source.classes)
        names.append(item.name)
        splits.append(item.split)
        thumbnails.append(checks.thumbnail(item.image))
        use(item)
    if not names and not problems:
        raise InputError("the data contain no image")
    if names:
        problems += checks.near_identical(names, splits, np.stack(thumbnails))
    return problems


class _Writer:
    """Appends resized samples of one split to two raw files that become .npy arrays."""

    def __init__(self, folder: Path, split: str, size: tuple[int, int]):
        self.size = size
        self.names: list[str] = []
        self.digests: list[str] = []
        self.paths = {kind: folder / f"{split}_{kind}.npy" for kind in ("images", "masks")}
        for path in self.paths.values():
            with writing(path.parent):
                path.with_suffix(".raw").touch()

    def add(self, sample: Sample) -> None:
        """Append one sample."""
        self.names.append(sample.name)
        resized = {"images": resize_image(sample.image, self.size), "masks": resize_mask(sample.mask, self.size)}
        self.digests.append(digest(resized["images"], resized["masks"]))
        for kind, path in self.paths.items():
            with writing(path.parent), open(path.with_suffix(".raw"), "ab") as raw:
                raw.write(resized[kind].tobytes())

    def close(self) -> None:
        """Write the .npy headers before the pixels, now that the number of images is known."""
        for kind, path in self.paths.items():
            shape = (len(self.names), *self.size) + ((3,) if kind == "images" else ())
            raw = path.with_suffix(".raw")
            with writing(path.parent), open(path, "wb") as target, open(raw, "rb") as pixels:
                header = {"descr": "|u1", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(target, header)
                shutil.copyfileobj(pixels, target)
                target.flush()
                os.fsync(target.fileno())
            raw.unlink()


def _check_length(array: np.ndarray) -> None:
    if isinstance(array, np.memmap) and isinstance(array.base, mmap.mmap) and array.base.size() < len(array.base):
        raise RunError(
            f"{array.filename}: has become shorter while it was in use; run the same command again to prepare the data "
            "again"
        )


class _Damaged(Exception):
    """Arrays in the cache are not those that were written."""


def _open(place: Path, verify: bool) -> Dataset:
    """Map the arrays at ``place``; raise :class:`_Damaged` if a file is missing, shortened, or changed."""
    splits = {}
    try:
        index = json.loads((place / "index.json").read_text(encoding="utf-8"))
        for split in SPLITS:
            names = index["names"][split]
            images, masks = (np.load(place / f"{split}_{kind}.npy", mmap_mode="r") for kind in ("images", "masks"))
            splits[split] = Split(images, masks, names, index.get("digests", {}).get(split))
        problems = [Problem(**problem) for problem in index["problems"]]
        dataset = Dataset(classes=tuple(index["classes"]), problems=problems, **splits)
    except (FileNotFoundError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Damaged(f"cannot be read ({type(error).__name__}: {error})") from error
    for name, part in splits.items():
        if not len(part.names) == len(part.images) == len(part.masks):
            raise _Damaged(f"the {name} split is incomplete")
        if verify and part.known_digests and replace(part, known_digests=None).digests != part.known_digests:
            raise _Damaged(f"the {name} split has changed since it was prepared")
    return dataset
