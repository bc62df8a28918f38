"""Writing images."""

from pathlib import Path

import numpy as np
from PIL import Image


def save(array: np.ndarray, path: Path, **options) -> Path:
    """Write an array to an image or .npy file, in a folder that is made if need be; options are those of Pillow."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        Image.fromarray(array).save(path, **options)
    return path
