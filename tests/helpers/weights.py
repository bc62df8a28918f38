"""Compare trained networks bit by bit."""

import zipfile
from pathlib import Path

import h5py
import numpy as np


def weights(path: Path) -> dict[str, np.ndarray]:
    """Every array in a .keras file: weights, batch statistics, optimizer state, averages, counters."""
    arrays = {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            arrays[name] = np.array(item)

    with zipfile.ZipFile(path) as archive, archive.open("model.weights.h5") as file, h5py.File(file) as content:
        content.visititems(visit)
    return arrays
