"""A Keras 3 U-Net whose upsampler is one line of YAML.

``unet.load("runs/pets").predict("photo.jpg")`` is the mask of a photograph.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from unet.inference import Predictor

__version__ = "0.2.0"


def load(path: str | Path) -> "Predictor":
    """Load a run directory or an exported file, to segment images with; Keras is imported only for networks in Keras.

    Raises:
        InputError: It is neither, its runtime is not installed, or the run has not been trained yet.
    """
    from unet.formats import load_network
    from unet.inference import Predictor

    return Predictor(load_network(path))
