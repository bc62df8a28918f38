"""Spectra of the checkerboard patterns of trained networks."""

import numpy as np

from unet import checkerboard
from unet.console import track
from unet.model import load_saved
from unet.runs import Run


def measure(runs: dict[str, Run]) -> dict[str, np.ndarray]:
    """:func:`unet.checkerboard.harmonics` of each run's response to images of one colour, by variant."""
    found = {}
    for variant, run in track(runs.items(), len(runs), "checkerboard spectra"):
        network = load_saved(run.best_file)
        depth = run.config.model.depth
        found[variant] = checkerboard.harmonics(checkerboard.response(network, depth), 2**depth)
    return found
