"""Segment images with a trained run or an exported file."""

import glob
import logging
import re
import warnings
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import unet
from unet.errors import InputError, RunError, nearest

log = logging.getLogger("unet")

LISTED = 10
"""Up to so many images the share of each class is printed."""


def main(
    network: Annotated[Path, typer.Argument(metavar="RUN_OR_FILE", help="A run directory, or an exported file.")],
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGES", help="Files, folders with all that is below, patterns ('**/*.jpg')."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where masks and overlays are written.")],
    large: Annotated[
        str, typer.Option(help="resize: as in training; tile: overlapping tiles in own pixels.")
    ] = "resize",
    tile: Annotated[str | None, typer.Option(metavar="HxW", help="Size of the tiles; default: as in training.")] = None,
    overlap: Annotated[float, typer.Option(help="Share of a tile that its neighbour covers too.")] = 0.25,
    flip: Annotated[bool, typer.Option("--flip", help="Average with the mirror image: twice the time.")] = False,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Write NAME_probabilities.npz: float16 (H, W, C), and classes.")
    ] = False,
    overlay: Annotated[bool, typer.Option("--overlay/--no-overlay", help="Write NAME_overlay.jpg.")] = True,
    batch_size: Annotated[int, typer.Option(help="Tiles that the network sees at a time.")] = 8,
):
    """Segment IMAGES of any size; write for each DIR/NAME.png, whose pixels are class ids and which shows in colours.

    What lies below a folder, or below the fixed part of a pattern, keeps its relative path below DIR. Two images that
    would get one name, or a mask in the place of an image, are an error before anything is written; masks of an earlier
    call are replaced.

    unet predict runs/pets photos --out masks
    """
    jobs = plan(images, out, overlay, probabilities)
    predictor = unet.load(network)

    from PIL import Image

    from unet import figures
    from unet.console import track
    from unet.data.images import read_image
    from unet.files import replacing
    from unet.inference import Options

    classes = predictor.metadata.classes
    colours = figures.colour_table(predictor.metadata.colours)
    options: Options = {
        "large": large,
        "tile": _size(tile),
        "overlap": overlap,
        "flip": flip,
        "batch_size": batch_size,
    }
    predictor.segment([], **options)  # complains now of what is wrong with them
    warnings.simplefilter("ignore", Image.DecompressionBombWarning)
    lines = []
    for source, files in track(jobs.items(), len(jobs), "segmenting"):
        try:
            image = read_image(source)
        except OSError as error:
            log.warning("%s: cannot be read as an image (%s)", source, error)
            continue
        found = next(predictor.segment([image], probabilities=probabilities, **options))
        with replacing(files["mask"]) as temporary:
            figures.paletted(found.mask, colours).save(temporary)
        if overlay:
            with replacing(files["overlay"]) as temporary:
                Image.fromarray(figures.overlay(image, found.mask, colours)).save(temporary, quality=90)
        if found.probabilities is not None:
            with replacing(files["probabilities"]) as temporary:
                np.savez_compressed(temporary, probabilities=found.probabilities.astype(np.float16), classes=classes)
        areas = np.bincount(found.mask.ravel(), minlength=len(classes)) / found.mask.size
        shares = ", ".join(f"{name} {area:.1%}" for name, area in zip(classes, areas) if area)
        lines.append(f"{source}: {image.shape[1]}×{image.shape[0]}, {shares}")

    if len(lines) <= LISTED:
        print(*lines, sep="\n")
    print(f"masks: {out} ({len(lines)} image{'s' * (len(lines) != 1)})")
    if failed := len(jobs) - len(lines):
        raise RunError(f"{failed} of {len(jobs)} images could not be read")


def plan(images: list[str], out: Path, overlay: bool, probabilities: bool) -> dict[Path, dict[str, Path]]:
    """Every image with the files that will be written for it.

    Raises:
        InputError: An argument names no image, or two files would be written to one place.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out: {out} is a file; name a folder")
    endings = {"mask": ".png"}
    endings |= {"overlay": "_overlay.jpg"} if overlay else {}
    endings |= {"probabilities": "_probabilities.npz"} if probabilities else {}
    places: dict[Path, tuple[Path, Path]] = {}
    for argument in images:
        for path, name in _named(argument, out):
            places.setdefault(path.absolute(), (path, out / name))
    inputs = {path.resolve() for path in places}
    jobs: dict[Path, dict[str, Path]] = {}
    writers: dict[Path, Path] = {}
    for path, place in places.values():
        jobs[path] = {kind: place.with_name(place.name + ending) for kind, ending in endings.items()}
        for file in jobs[path].values():
            if file.resolve() in inputs:
                raise InputError(f"{file}: is one of the images and would be overwritten; choose another --out")
            if (other := writers.setdefault(file, path)) != path:
                raise InputError(
                    f"{other} and {path}: both would be written to {file}; segment them into two folders, or give the "
                    "folder above them, below which paths are kept"
                )
    return jobs


def _named(argument: str, out: Path) -> list[tuple[Path, Path]]:
    """Images that an argument stands for, each with its relative path without ending."""
    from unet.data.images import IMAGE_ENDINGS

    path = Path(argument).expanduser()
    if path.is_file():
        return [(path, Path(path.stem))]
    if path.is_dir():
        root, candidates = path, list(path.rglob("*"))
    elif glob.has_magic(str(path)):
        fixed = next(index for index, part in enumerate(path.parts) if glob.has_magic(part))
        root, candidates = Path(*path.parts[:fixed]), list(map(Path, glob.glob(str(path), recursive=True)))
    else:
        there = [str(other) for other in path.parent.glob("*")]
        raise InputError(f"{argument}: there is no such file or folder{nearest(str(path), there)}")
    earlier = out.resolve() if root.resolve() != out.resolve() else None  # masks of an earlier call are no images
    named = sorted((candidate, candidate.relative_to(root).with_suffix("")) for candidate in candidates)
    found = [
        (candidate, name)
        for candidate, name in named
        if candidate.suffix.lower() in IMAGE_ENDINGS
        and not candidate.is_dir()
        and not any(part.startswith(".") for part in name.parts)
        and earlier not in candidate.resolve().parents
    ]
    if not found:
        what = "holds no image" if path.is_dir() else "no image is called so"
        raise InputError(f"{argument}: {what} ({', '.join(IMAGE_ENDINGS)})")
    return found


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)[x×](\d+)", text)
    if not match:
        raise InputError(f"--tile: expected height and width in pixels, as 512x512, received {text!r}")
    return int(match[1]), int(match[2])
