"""The cache of prepared data: a source is decoded once into memory-mapped arrays, found by the source's key.

Images are stored at the network's size, in arrays ``(N, H, W, C)`` (:class:`Split`), or each at a size of its own, one
after another in a flat file (:class:`Crops`).
"""

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
from unet.data.images import PixelFormat, resize_image, resize_mask, scaled
from unet.data.masks import class_counts
from unet.data.sources import SPLITS, Problem, Sample, Source
from unet.data.windows import Windows
from unet.errors import InputError, RunError
from unet.files import CACHE, remove_unfinished, temporary_folder, write_json, writing

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
    """uint8 ``(N, H, W, 3)``, or with the channels and type of the source's pixels."""
    masks: np.ndarray
    """uint8 ``(N, H, W)``: class ids, 255 is ignored."""
    names: list[str]
    known_digests: list[str] | None = None
    """Digests stored when the arrays were written; ``None`` for arrays of earlier versions."""

    def __len__(self):
        return len(self.names)

    @property
    def samples(self) -> int:
        """Number of training samples in an epoch."""
        return len(self)

    @property
    def is_complete(self) -> bool:
        """Whether the arrays hold as many images as there are names."""
        return len(self.names) == len(self.images) == len(self.masks)

    @cached_property
    def digests(self) -> list[str]:
        """Digest of each image with its mask."""
        return self.known_digests or [digest(*self.whole(row)) for row in range(len(self))]

    @cached_property
    def pixels(self) -> np.ndarray:
        """Number of pixels of each class id, int64 ``(256,)``."""
        return sum(map(class_counts, self.masks), np.zeros(256, np.int64))

    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over all pixels; 1 for a channel that is constant."""
        count, total, squares = 0, 0.0, 0.0
        shift = np.asarray(self.whole(0)[0], np.float64).mean((0, 1))  # large values lose no digits
        for row in track(range(len(self)), len(self), "normalizing"):
            values = self.whole(row)[0].reshape(-1, len(shift)) - shift
            count, total, squares = count + len(values), total + values.sum(0), squares + (values**2).sum(0)
        mean = total / count
        deviation = np.sqrt(np.maximum(squares / count - mean**2, 0))
        return tuple((mean + shift).tolist()), tuple(np.where(deviation > 0, deviation, 1.0).tolist())

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

    def draw(self, samples: np.ndarray, epoch: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Copy the images and masks of some samples of an epoch into memory.

        Args:
            samples: Their numbers, each below :attr:`samples`.
            epoch: Seed and number of a training epoch, of which they are a function; ``None``: outside training.

        Returns:
            ``(B, H, W, C)``, and uint8 ``(B, H, W)``.
        """
        return self.read(samples)

    def whole(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Copy an image and its mask into memory at the size at which they are stored."""
        return self.read(row)

    def only(self, names: set[str]) -> "Split":
        """Load the images with these names into memory, in the same order."""
        rows = [row for row, name in enumerate(self.names) if name in names]
        known = self.known_digests and [self.known_digests[row] for row in rows]
        return Split(*self.read(rows), [self.names[row] for row in rows], known)


@dataclass(frozen=True, kw_only=True)
class Crops(Split):
    """Images and masks of one split, each of a size of its own, from which windows of one size are read.

    ``images`` and ``masks`` are flat: the pixels of one image after another. A sample is one window of an image. The
    windows of a training epoch are drawn anew; outside training the same windows are read each time, whatever the seed
    of the run.
    """

    sizes: np.ndarray
    """int64 ``(N, 2)``: height and width of each image."""
    starts: np.ndarray
    """int64 ``(N,)``: number of pixels before each image."""
    counts: list[dict[int, int]]
    """Number of pixels of the class ids in each mask."""
    windows: Windows
    """How windows are chosen."""
    channels: int = 3
    """Channels of the images."""

    @property
    def samples(self) -> int:
        return len(self) * self.windows.count

    @property
    def is_complete(self) -> bool:
        pixels = int(self.sizes.prod(1).sum())
        rows = {len(self.names), len(self.sizes), len(self.counts)}
        return rows == {len(self)} and (len(self.images), len(self.masks)) == (self.channels * pixels, pixels)

    @cached_property
    def pixels(self) -> np.ndarray:
        total = np.zeros(256, np.int64)
        for counts in self.counts:
            total[list(counts)] += list(counts.values())
        return total

    def read(self, rows: int | slice | np.ndarray | list[int]) -> tuple[np.ndarray, np.ndarray]:
        """Copy one window of each image into memory, always the same one."""
        chosen = np.arange(len(self))[rows]
        images, masks = self.draw(np.atleast_1d(chosen) * self.windows.count)
        return (images, masks) if chosen.ndim else (images[0], masks[0])

    def draw(self, samples: np.ndarray, epoch: tuple[int, int] | None = None) -> tuple[np.ndarray, np.ndarray]:
        images = np.empty((len(samples), *self.windows.size, self.channels), self.images.dtype)
        masks = np.empty(images.shape[:3], np.uint8)
        for index, sample in enumerate(map(int, samples)):
            row = sample // self.windows.count
            image, mask = self._mapped(row)
            rng = np.random.default_rng((*epoch, sample + 1) if epoch else (0, 0, 0, sample + 1))
            corner = self.windows.draw(mask, self.counts[row], rng, balanced=epoch is not None)
            images[index], masks[index] = self.windows.cut(image, mask, corner)
        return images, masks

    def whole(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        image, mask = self._mapped(row)
        return np.array(image), np.array(mask)

    def _mapped(self, row: int) -> tuple[np.ndarray, np.ndarray]:
        """An image and its mask, not in memory yet."""
        for array in (self.images, self.masks):
            _check_length(array)
        height, width = self.sizes[row]
        start, stop = self.starts[row], self.starts[row] + height * width
        image, mask = self.images[self.channels * start : self.channels * stop], self.masks[start:stop]
        return image.reshape(height, width, self.channels), mask.reshape(height, width)

    def only(self, names: set[str]) -> "Crops":
        """Choose the images with these names, in the same order; they are not loaded into memory."""
        rows = [row for row, name in enumerate(self.names) if name in names]
        return replace(
            self,
            names=[self.names[row] for row in rows],
            known_digests=self.known_digests and [self.known_digests[row] for row in rows],
            sizes=self.sizes[rows],
            starts=self.starts[rows],
            counts=[self.counts[row] for row in rows],
        )


@dataclass(frozen=True)
class Dataset:
    """A prepared source."""

    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    problems: list[Problem]
    """Problems found while preparing the data that were not fatal."""

    def with_windows(self, windows: Windows) -> "Dataset":
        """Choose how windows are cut from the images of :class:`Crops`."""
        return replace(self, **{split: replace(getattr(self, split), windows=windows) for split in SPLITS})


def prepare(
    source: Source,
    size: tuple[int, int] | None,
    cache_dir: Path | None = None,
    verify: bool = False,
    scale: float = 1.0,
) -> Dataset:
    """Return the arrays of a source, decoding it only if they are not in the cache yet.

    Images are resized bilinearly with antialiasing, masks to the nearest pixel. Damaged arrays are rebuilt.

    Args:
        source: Where images and masks come from.
        size: Height and width in pixels of all images; ``None``: each keeps its own, times ``scale``, and the splits
            are :class:`Crops` with windows of one pixel.
        cache_dir: Parent of the cache; default ``$UNET_CACHE``, else ``~/.cache/unet-upsamplers``.
        verify: Also read all arrays once, to compare them with their digests.
        scale: Factor of height and width, if ``size`` is ``None``.

    Raises:
        InputError: Something is wrong with the data; the message lists every problem.
        RunError: The arrays cannot be written, for example because the disk is full.
    """
    try:
        parent = Path(cache_dir or os.environ.get("UNET_CACHE", CACHE)).expanduser()
    except RuntimeError as error:
        raise InputError(f"data.cache_dir: {error} Set data.cache_dir or the variable UNET_CACHE") from None
    stored = _Own(scale) if size is None else _Resized(size)
    found = _existing(source, stored, parent) or _build(source, stored, parent)
    try:
        dataset = _open(found, verify)
    except _Damaged as damage:
        log.warning("%s: %s; preparing the data again", found, damage)
        dataset = _open(_build(source, stored, parent, found), verify)
    if not len(dataset.train):
        raise InputError("data: there is no training image; check the split files, data.validation and test_fraction")
    return dataset


def inspect(source: Source, use: Callable[[Sample], None] = lambda sample: None) -> list[Problem]:
    """Decode the whole source, pass every sample to ``use``, and list everything that is wrong with them."""
    return _scan(source, use)


@dataclass(frozen=True)
class _Resized:
    """All images of a split are stored at one size."""

    size: tuple[int, int]

    @property
    def key(self) -> dict:
        return {"size": list(self.size)}

    def __str__(self):
        return "x".join(map(str, self.size))

    def of(self, mask: np.ndarray) -> tuple[int, int]:
        """Size at which an image and its mask are stored."""
        return self.size


@dataclass(frozen=True)
class _Own:
    """Every image is stored at its own size times a factor."""

    scale: float

    @property
    def key(self) -> dict:
        return {"scale": self.scale}

    def __str__(self):
        return f"own{self.scale:g}"

    def of(self, mask: np.ndarray) -> tuple[int, int]:
        """Size at which an image and its mask are stored."""
        return scaled(mask.shape, self.scale)


_Stored = _Resized | _Own


def _place(parent: Path, source: Source, stored: _Stored) -> Path:
    key = {"format": FORMAT, **stored.key, **source.key()}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:16]
    return parent / f"{key['source']}-{stored}-{digest}"


def _existing(source: Source, stored: _Stored, parent: Path) -> Path | None:
    place = _place(parent, source, stored)
    return place if (place / "index.json").is_file() else None


def _build(source: Source, stored: _Stored, parent: Path, damaged: Path | None = None) -> Path:
    """Decode everything into a temporary folder, and move it to its place, which may hold damaged arrays."""
    with contextlib.ExitStack() as stack:
        try:
            folder = stack.enter_context(temporary_folder(parent))
            (folder / "new").mkdir()
        except (OSError, RunError) as error:
            raise InputError(f"data.cache_dir: {error}; set data.cache_dir elsewhere") from None
        remove_unfinished(parent)
        files = {split: _Writer(folder / "new", split, stored, source.pixels) for split in SPLITS}
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
        if isinstance(stored, _Own):
            index |= {
                "sizes": {split: writer.sizes for split, writer in files.items()},
                "pixels": {split: writer.counts for split, writer in files.items()},
                "format": asdict(source.pixels),
            }
        write_json(folder / "new" / "index.json", index)
        # The key is computed after decoding, because a download changes it.
        place = _place(parent, source, stored)
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
    """Appends resized samples of one split to two raw files, which become .npy arrays if all have one size."""

    def __init__(self, folder: Path, split: str, stored: _Stored, pixels: PixelFormat):
        self.stored = stored
        self.pixels = pixels
        self.names: list[str] = []
        self.digests: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self.counts: list[dict[int, int]] = []
        self.paths = {kind: folder / f"{split}_{kind}.npy" for kind in ("images", "masks")}
        for path in self.paths.values():
            with writing(path.parent):
                path.with_suffix(".raw").touch()

    def add(self, sample: Sample) -> None:
        """Append one sample."""
        size = self.stored.of(sample.mask)
        resized = {"images": resize_image(sample.image, size), "masks": resize_mask(sample.mask, size)}
        self.names.append(sample.name)
        self.digests.append(digest(resized["images"], resized["masks"]))
        if isinstance(self.stored, _Own):
            counts = class_counts(resized["masks"])
            self.sizes.append(size)
            self.counts.append({int(index): int(counts[index]) for index in np.flatnonzero(counts)})
        for kind, path in self.paths.items():
            with writing(path.parent), open(path.with_suffix(".raw"), "ab") as raw:
                raw.write(resized[kind].tobytes())

    def close(self) -> None:
        """Finish the files: write the .npy headers before the pixels, now that the number of images is known."""
        for kind, path in self.paths.items():
            raw = path.with_suffix(".raw")
            if isinstance(self.stored, _Own):  # as large as they are, such files are not copied
                with writing(path.parent), open(raw, "ab") as target:
                    os.fsync(target.fileno())
                continue
            is_image = kind == "images"
            shape = (len(self.names), *self.stored.size, *((self.pixels.channels,) if is_image else ()))
            dtype = self.pixels.dtype if is_image else "uint8"
            with writing(path.parent), open(path, "wb") as target, open(raw, "rb") as pixels:
                header = {"descr": np.dtype(dtype).str, "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(target, header)
                shutil.copyfileobj(pixels, target)
                target.flush()
                os.fsync(target.fileno())
            raw.unlink()


def _open_split(place: Path, split: str, index: dict) -> Split:
    names, known = index["names"][split], index.get("digests", {}).get(split)
    if "sizes" not in index:
        images, masks = (np.load(place / f"{split}_{kind}.npy", mmap_mode="r") for kind in ("images", "masks"))
        return Split(images, masks, names, known)
    pixel_format = PixelFormat(**index.get("format", {}))
    images = _flat(place / f"{split}_images.raw", pixel_format.dtype)
    masks = _flat(place / f"{split}_masks.raw", "uint8")
    sizes = np.array(index["sizes"][split], np.int64).reshape(-1, 2)
    pixels = sizes.prod(1)
    return Crops(
        images=images,
        masks=masks,
        names=names,
        known_digests=known,
        sizes=sizes,
        starts=pixels.cumsum() - pixels,
        counts=[{int(key): count for key, count in counts.items()} for counts in index["pixels"][split]],
        windows=Windows((1, 1)),
        channels=pixel_format.channels,
    )


def _flat(path: Path, dtype: str) -> np.ndarray:
    """Map a file of numbers, which may be empty."""
    return np.memmap(path, dtype, "r") if path.stat().st_size else np.zeros(0, dtype)


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
    splits: dict[str, Split] = {}
    try:
        index = json.loads((place / "index.json").read_text(encoding="utf-8"))
        for split in SPLITS:
            splits[split] = _open_split(place, split, index)
        problems = [Problem(**problem) for problem in index["problems"]]
        dataset = Dataset(classes=tuple(index["classes"]), problems=problems, **splits)
    except (FileNotFoundError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _Damaged(f"cannot be read ({type(error).__name__}: {error})") from error
    for name, part in splits.items():
        if not part.is_complete:
            raise _Damaged(f"the {name} split is incomplete")
        if verify and part.known_digests and replace(part, known_digests=None).digests != part.known_digests:
            raise _Damaged(f"the {name} split has changed since it was prepared")
    return dataset
