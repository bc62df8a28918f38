"""Segment images with a trained run or an exported file."""

import contextlib
import errno
import glob
import json
import logging
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

import unet
from unet.errors import InputError, RunError, nearest, shortened
from unet.files import expanded, files_below

log = logging.getLogger("unet")

LISTED = 10
"""Up to this number of images, the share of each class is printed."""
COCO_FILE = "coco.json"
"""Name of the file that ``--coco`` writes."""
LARGER = 1.5
"""Ratio of an image's side to that of the network's input from which tiles and resized images show objects at different
sizes."""


def main(
    network: Annotated[Path, typer.Argument(metavar="RUN_OR_FILE", help="A run directory or an exported file.")],
    images: Annotated[
        list[str],
        typer.Argument(metavar="IMAGES", help="Files, folders (with their subfolders), patterns ('**/*.jpg')."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where masks and overlays are written.")] = Path("masks"),
    mode: Annotated[
        str | None,
        typer.Option(
            help="resize: whole images, resized; tile: overlapping tiles at full resolution; default: as in training."
        ),
    ] = None,
    large: Annotated[str | None, typer.Option(hidden=True)] = None,
    tile: Annotated[
        str | None, typer.Option(metavar="HxW", help="Size of the tiles; default: the size in training.")
    ] = None,
    overlap: Annotated[float, typer.Option(help="Share of a tile that its neighbour also covers.")] = 0.25,
    flip: Annotated[bool, typer.Option("--flip", help="Average with the mirror image: takes twice the time.")] = False,
    probabilities: Annotated[
        bool,
        typer.Option("--probabilities", help="Also write NAME_probabilities.npz: float16 (H, W, C), and class names."),
    ] = False,
    polygons: Annotated[
        bool,
        typer.Option(
            "--polygons",
            help="Also write NAME.geojson: the regions of every class, in pixels, or in the coordinates of a GeoTIFF.",
        ),
    ] = False,
    coco: Annotated[
        bool,
        typer.Option("--coco", help="Also write DIR/coco.json: the regions of every class of all images, in pixels."),
    ] = False,
    geotiff: Annotated[
        bool, typer.Option("--geotiff", help="Also write NAME.tif: the mask with the georeference of its image.")
    ] = False,
    overlay: Annotated[
        bool, typer.Option("--overlay/--no-overlay", help="Also write NAME_overlay.jpg, with a legend.")
    ] = True,
    batch_size: Annotated[int, typer.Option(help="Tiles that are processed at a time.")] = 8,
):
    """Segment IMAGES of any size. For each, write DIR/NAME.png: pixels are class ids, shown in the class colours.

    If a pixel may have several labels, its value is the sum of 2ᵏ over its labels k, counted from 0, and
    DIR/NAME_LABEL.png is 255 where the label is set, 0 elsewhere.

    Images below a folder, or below the fixed part of a pattern, keep their relative path below DIR. If two images would
    get the same name, or a mask would overwrite an image, nothing is written. Masks of an earlier call are replaced.

    unet predict runs/pets photos
    """
    from unet.inference import Options, check_options
    from unet.inference.georeference import Georeference, check_installed

    if large is not None:
        print("warning: --large is now called --mode", file=sys.stderr)
        mode = large
    options: Options = {
        "mode": mode,
        "tile": _size(tile),
        "overlap": overlap,
        "flip": flip,
        "batch_size": batch_size,
    }
    check_options(**options)
    for argument, wanted in (("polygons", polygons), ("coco", coco), ("geotiff", geotiff)):
        if wanted:
            check_installed(argument)
    jobs = plan(images, out, overlay, probabilities, polygons, geotiff)
    places = {source: Georeference.of(source) for source in jobs} if polygons or geotiff else {}
    if geotiff and (without := [source for source, place in places.items() if place is None]):
        more = f" (and {len(without) - 1} more)" if len(without) > 1 else ""
        raise InputError(f"{without[0]}{more}: has no georeference; expected GeoTIFF files", "geotiff")
    predictor = unet.load(network)
    if predictor.metadata.meaning.labels:
        jobs = plan(images, out, overlay, probabilities, polygons, geotiff, predictor.metadata.classes)
    predictor.segment([], **options)  # checks the options that depend on the network
    check_writable(out)

    from unet.console import say, track
    from unet.data.images import WrongPixels
    from unet.files import remove_unfinished

    for folder in {out, *(file.parent for files in jobs.values() for file in files.values())}:
        remove_unfinished(folder)
    lines: list[str] = []
    unlike_training = mode not in (None, predictor.mode)
    with _annotations(out, predictor.metadata) if coco else contextlib.nullcontext() as annotations:
        for source, files in track(jobs.items(), len(jobs), "segmenting"):
            try:
                image = predictor.metadata.pixels.read(source)
            except WrongPixels as error:
                log.warning("%s: %s", source, error)
                continue
            except OSError as error:
                log.warning("%s: cannot be read as an image (%s)", source, error.strerror or error)
                continue
            if unlike_training and max(np.divide(image.shape[:2], predictor.metadata.size)) > LARGER:
                unlike_training = False  # one warning is enough
                _warn_of_sizes(source, mode, predictor)
            prediction = next(predictor.segment([image], probabilities=probabilities, **options))
            try:
                _write(files, image, prediction, predictor.metadata, places.get(source))
            except RunError as error:
                if getattr(error.__cause__, "errno", None) != errno.ENAMETOOLONG:  # the others would fail as well
                    raise
                log.warning("%s: the name of its mask would be too long", source)
                continue
            if annotations is not None:
                annotations.add(files["mask"].relative_to(out).with_suffix(source.suffix), prediction.mask)
            shares = _shares(prediction.mask, predictor.metadata)
            lines.append(f"{source}: {image.shape[1]}×{image.shape[0]}, {shares}")
            del image, prediction  # before the next image is read

    if len(lines) <= LISTED:
        for line in lines:
            say(line)
    say(f"masks: {out} ({len(lines)} image{'s' * (len(lines) != 1)})")
    if failed := len(jobs) - len(lines):
        raise RunError(f"{failed} of {len(jobs)} images could not be read or written")


def _annotations(out: Path, metadata):
    """The file of COCO annotations of all images, to be written in a ``with`` block."""
    from unet.inference.coco import writing_coco

    return writing_coco(out / COCO_FILE, metadata.classes, metadata.colours, metadata.meaning)


def _warn_of_sizes(source: Path, mode: str | None, predictor) -> None:
    """Warn that objects in an image look larger or smaller than in training."""
    trained, look, subject = (
        ("images resized to", "larger", "in tiles of")
        if mode == "tile"
        else ("windows of", "smaller", "in the resized")
    )
    log.warning(
        "the network was trained on %s %d×%d pixels (height × width); objects %s %s look %s than in training, "
        "and may be misclassified; compare with --mode %s",
        trained,
        *predictor.metadata.size,
        subject,
        source,
        look,
        predictor.mode,
    )


def _write(files: dict[str, Path], image: np.ndarray, prediction, metadata, place) -> None:
    """Write the requested files of one image, which may have a georeference."""
    from PIL import Image

    from unet import figures
    from unet.files import replacing, write_text
    from unet.inference.georeference import write_mask
    from unet.inference.polygons import regions

    head = metadata.meaning
    colours = head.table(metadata.colours)
    for index, label in enumerate(metadata.classes if head.labels else ()):
        with replacing(files[f"label {label}"]) as temporary:
            Image.fromarray(head.of(prediction.mask, index).astype(np.uint8) * 255).save(temporary)
    with replacing(files["mask"]) as temporary:
        figures.paletted(prediction.mask, colours).save(temporary)
    if "overlay" in files:
        picture = figures.overlay_with_legend(image, prediction.mask, metadata.classes, colours, head=head)
        with replacing(files["overlay"]) as temporary:
            picture.save(temporary, quality=90)
    if "probabilities" in files:
        with replacing(files["probabilities"]) as temporary:
            shares = prediction.probabilities.astype(np.float16)
            np.savez_compressed(temporary, probabilities=shares, classes=metadata.classes)
    if "polygons" in files:
        write_text(files["polygons"], json.dumps(regions(prediction.mask, metadata.classes, head, place)))
    if "geotiff" in files:
        write_mask(files["geotiff"], prediction.mask, place, colours)


def _shares(mask: np.ndarray, metadata) -> str:
    """Share of the image that each class found in it covers."""
    from unet.data.masks import class_counts

    areas = metadata.meaning.areas(class_counts(mask), len(metadata.classes)) / mask.size
    return ", ".join(f"{name} {area:.1%}" for name, area in zip(metadata.classes, areas) if area) or "no label"


def plan(
    images: list[str],
    out: Path,
    overlay: bool,
    probabilities: bool,
    polygons: bool = False,
    geotiff: bool = False,
    labels: tuple[str, ...] = (),
) -> dict[Path, dict[str, Path]]:
    """Map each image to the files that will be written for it; ``labels`` are those that have a file each.

    Raises:
        InputError: An argument matches no image, or two files would have the same path.
    """
    if os.path.exists(out) and not os.path.isdir(out):
        raise InputError(f"{out} is a file; name a folder", "out")
    endings = {"mask": ".png"}
    endings |= {"overlay": "_overlay.jpg"} if overlay else {}
    endings |= {"probabilities": "_probabilities.npz"} if probabilities else {}
    endings |= {"polygons": ".geojson"} if polygons else {}
    endings |= {"geotiff": ".tif"} if geotiff else {}
    for index, label in enumerate(labels):
        plain = re.sub(r"[^\w.-]", "_", label)  # what a file may be called everywhere
        taken = {ending.lower() for ending in endings.values()}
        endings[f"label {label}"] = f"_{plain}.png" if f"_{plain}.png".lower() not in taken else f"_{plain}_{index}.png"
    places: dict[Path, tuple[Path, Path]] = {}
    for argument in images:
        for path, name in _named(argument, out):
            places.setdefault(path.absolute(), (path, out / name))
    inputs = {os.path.realpath(path) for path in places}
    jobs: dict[Path, dict[str, Path]] = {}
    writers: dict[Path, Path] = {}
    for path, place in places.values():
        jobs[path] = {kind: place.with_name(place.name + ending) for kind, ending in endings.items()}
        for file in jobs[path].values():
            if os.path.realpath(file) in inputs:
                raise InputError(f"{file}: is one of the images and would be overwritten; choose another --out")
            if (other := writers.setdefault(file, path)) != path:
                raise InputError(
                    f"{other} and {path}: both would be written to {file}; write them to different folders, or pass "
                    "their parent folder, which keeps relative paths"
                )
    return jobs


def check_writable(out: Path) -> None:
    """Make the folder for the masks.

    Raises:
        InputError: It cannot be made, or nothing can be written in it.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot write to {shortened(str(out))} ({getattr(error, 'strerror', '') or error})", "out"
        ) from None


def _named(argument: str, out: Path) -> list[tuple[Path, Path]]:
    """Images that an argument matches, each with its relative path without extension."""
    from unet.data.images import IMAGE_ENDINGS

    path = expanded(argument)
    if os.path.isfile(path):
        return [(path, Path(path.stem))]
    if os.path.isdir(path):
        root, candidates = path, list(files_below(path))
    elif glob.has_magic(str(path)):
        fixed = next(index for index, part in enumerate(path.parts) if glob.has_magic(part))
        root, candidates = Path(*path.parts[:fixed]), list(map(Path, glob.glob(str(path), recursive=True)))
    elif os.path.lexists(path):
        raise InputError(f"{argument}: is neither a file nor a folder")
    else:
        there = [str(other) for other in path.parent.glob("*")] if os.path.isdir(path.parent) else []
        raise InputError(f"{shortened(argument)}: there is no such file or folder{nearest(str(path), there)}")
    earlier = os.path.realpath(out)  # masks of an earlier call are not images
    if earlier == os.path.realpath(root):
        earlier = ""
    named = sorted((candidate, candidate.relative_to(root).with_suffix("")) for candidate in candidates)
    found = [
        (candidate, name)
        for candidate, name in named
        if candidate.suffix.lower() in IMAGE_ENDINGS
        and not os.path.isdir(candidate)
        and not any(part.startswith(".") for part in name.parts)
        and not (earlier and Path(os.path.realpath(candidate)).is_relative_to(earlier))
    ]
    if not found:
        what = "contains no image" if os.path.isdir(path) else "matches no image"
        raise InputError(f"{argument}: {what} ({', '.join(IMAGE_ENDINGS)})")
    return found


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+)[x×](\d+)", text)
    if not match:
        raise InputError(f"expected height and width in pixels, as 512x512, received {text!r}", "tile")
    return int(match[1]), int(match[2])
