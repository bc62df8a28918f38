"""Images of noise, for measurements that need images of the right shape and no data."""

import numpy as np

from unet.config import DataConfig
from unet.data.cache import Split


def noise(data: DataConfig, count: int, classes: int) -> Split:
    """Images as the configuration describes them and masks, both of random values that are the same on every call.

    Args:
        data: Size, channels and type of the images.
        count: Number of images.
        classes: Number of classes.
    """
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (count, *data.size, data.channels), np.uint8).astype(data.dtype)
    masks = rng.integers(0, classes, (count, *data.size), np.uint8)
    return Split(images, masks, [str(index) for index in range(count)])
