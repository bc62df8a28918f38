"""Measurements of trained networks that a report needs, stored in the directory of the report.

latency.json   inference times
spectra.npz    spectra of the checkerboard patterns
scenes.npz     test images and their segmentations

Each file covers one run of each variant. It is measured once, and again when the runs have changed.
``python -m unet.ablation.run.measurements DIRECTORY NAME...`` measures the runs named on standard input.
"""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from unet import console, interrupts, processes, records
from unet.ablation.run.finished import RunsByVariant
from unet.errors import RunError
from unet.files import replacing, write_json
from unet.runs import Run

FILES = {"latency": "latency.json", "spectra": "spectra.npz", "scenes": "scenes.npz", "steps": "steps.json"}


@dataclass(frozen=True)
class Scenes:
    """Test images and their segmentation by each variant."""

    names: list[str]
    """Names of the K images."""
    images: np.ndarray
    """uint8 ``(K, H, W, 3)``."""
    masks: np.ndarray
    """True class ids, or sets of labels, uint8 ``(K, H, W)``; 255 is ignored."""
    predictions: np.ndarray
    """Predicted class ids, or sets of labels, uint8 ``(V, K, H, W)``."""
    scores: np.ndarray
    """Mean IoU of each prediction ``(V, K)``."""
    variants: list[str]
    classes: list[str]
    """Name of each value; empty for sets of labels that do not occur."""
    colours: np.ndarray
    """Colour of each value 0 to 255, uint8 ``(256, 3)``."""


@dataclass(frozen=True)
class Measurements:
    """Everything a report shows that is not in the run directories."""

    latency: dict
    """See :func:`unet.ablation.run.timing.latency`."""
    spectra: dict[str, np.ndarray]
    """:func:`unet.checkerboard.harmonics` of the network's response, by variant."""
    scenes: Scenes | None
    """``None`` where the networks take images of different sizes, or the test images are not available."""


def measure(runs: RunsByVariant, directory: Path, environment: dict[str, str]) -> Measurements:
    """Read the measurements stored in ``directory``, after measuring those that are missing or out of date.

    Args:
        runs: The runs to be reported.
        directory: Directory of the report.
        environment: Environment variables of the process that measures.

    Raises:
        RunError: A measurement failed.
    """
    wanted = ["latency", "spectra"]
    if len({run.config.data.size for run in runs.shown.values()}) == 1:
        wanted.append("scenes")
    digests = _digests(runs.shown)
    missing = [name for name in wanted if not _is_current(name, runs.shown, directory, digests)]
    if missing:
        in_process(missing, runs.shown, directory, environment)
    has_scenes = "scenes" in wanted and _is_current("scenes", runs.shown, directory, digests)
    return Measurements(
        latency=records.read_json(directory / FILES["latency"], dict[str, Any]),
        spectra=_read_arrays(directory / FILES["spectra"]),
        scenes=_read_scenes(directory / FILES["scenes"]) if has_scenes else None,
    )


def in_process(names: Iterable[str], runs: dict[str, Run], directory: Path, environment: dict[str, str]) -> None:
    """Measure runs in a process of their own, so that the caller needs no device.

    Args:
        names: Keys of ``FILES``, which names the files that are written.
        runs: A run for each variant.
        directory: Where to write.
        environment: Environment variables of the process.

    Raises:
        RunError: The process failed; the message is its own.
    """
    with interrupts.sigterm_as_exit():
        process = subprocess.run(
            processes.command("unet.ablation.run.measurements", str(directory), *names),
            input=json.dumps({variant: str(run.path) for variant, run in runs.items()}),
            env=environment,
            text=True,
            stderr=None if console.console.is_terminal else subprocess.PIPE,
        )
    if process.returncode:
        problem = processes.reason(process.stderr or "", process.returncode)
        raise RunError(f"measuring {', '.join(names)} failed: {problem}")


def _is_current(name: str, runs: dict[str, Run], directory: Path, digests: str) -> bool:
    """Whether a stored measurement is of these runs, whose networks have these digests."""
    file = directory / FILES[name]
    if not file.exists():
        return False
    if file.suffix == ".json":
        return records.read_json(file, dict[str, Any]).get("runs") == _paths(runs, directory)
    return str(records.arrays_of(file).get("runs")) == digests


def _paths(runs: dict[str, Run], directory: Path) -> dict[str, str]:
    return {variant: os.path.relpath(run.path, directory) for variant, run in runs.items()}


def _digests(runs: dict[str, Run]) -> str:
    """Digests of the trained networks by variant, as text."""
    digests = {variant: hashlib.sha256(run.best_file.read_bytes()) for variant, run in runs.items()}
    return json.dumps({variant: digest.hexdigest() for variant, digest in digests.items()}, sort_keys=True)


def _read_arrays(file: Path) -> dict[str, np.ndarray]:
    """Read what was measured, without the digests of the runs."""
    return {key: value for key, value in records.arrays_of(file).items() if key != "runs"}


def _read_scenes(file: Path) -> Scenes:
    arrays = _read_arrays(file)
    lists = {key: arrays[key].tolist() for key in ("names", "variants", "classes")}
    return Scenes(**arrays | lists)


def _write(name: str, runs: dict[str, Run], directory: Path) -> None:
    """Measure one thing and write its file, unless it cannot be measured."""
    from unet.ablation.run import scenes, spectra, timing

    file = directory / FILES[name]
    if name in ("latency", "steps"):
        times = timing.latency(runs) if name == "latency" else timing.steps(runs)
        write_json(file, times | {"runs": _paths(runs, directory)})
        return
    arrays = spectra.measure(runs) if name == "spectra" else scenes.predict(runs)
    if arrays is not None:
        with replacing(file) as temporary:
            np.savez_compressed(temporary, allow_pickle=False, **arrays, runs=np.array(_digests(runs)))


if __name__ == "__main__":
    import typer

    from unet import backend

    def main(directory: Path, names: list[str]):
        """Measure the runs named on standard input, ``{"variant": "path"}``, and write files into DIRECTORY."""
        backend.use_backend()
        runs = {variant: Run.open(path) for variant, path in json.load(sys.stdin).items()}
        for name in names:
            _write(name, runs, directory)

    console.run(lambda: typer.run(main))
