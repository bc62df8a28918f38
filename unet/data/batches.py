"""Batches for ``fit``, read lazily from the arrays in an order that is a function of seed and epoch."""

import contextlib
import math
from collections.abc import Callable, Iterator

import keras
import numpy as np

from unet.data.cache import Split
from unet.errors import InputError, RunError


class Batches(keras.utils.PyDataset):
    """``{"image": (B, H, W, C), "mask": uint8 (B, H, W)}`` batches of a split, pixels as they are stored.

    Training batches are reshuffled every epoch and are all full: images that do not fill a batch are left out of that
    epoch. Training resumed at an epoch sees exactly the batches of that epoch. If the split is cut into windows, these
    are what is said here of images.

    Args:
        split: The images and masks.
        batch_size: Images per batch.
        shuffle_seed: Determines the order of every epoch; ``None`` keeps the order of the split, with a smaller last
            batch.
        accumulate: Number of training batches of one update; batches that do not fill such a group are left out too.
        share: Chooses, from the numbers of a batch's images, those that this process reads.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        shuffle_seed: int | None = None,
        accumulate: int = 1,
        share: Callable[[np.ndarray], np.ndarray] = lambda chosen: chosen,
    ):
        super().__init__()
        count, kind = split.samples, "images" if split.samples == len(split) else "windows"
        if shuffle_seed is not None and count < batch_size:
            raise InputError(
                f"training.batch_size: {batch_size} is more than the {count} training {kind}; it may be at most {count}"
            )
        if shuffle_seed is not None and count < batch_size * accumulate:
            raise InputError(
                f"training.accumulate: {accumulate} batches of {batch_size} are more than the {count} training "
                f"{kind}; it may be at most {count // batch_size}"
            )
        self.split = split
        self.batch_size = batch_size
        self.shuffle_seed = shuffle_seed
        self.accumulate = accumulate
        self.share = share
        self._error: RunError | None = None
        self.start_epoch(0)

    def start_epoch(self, epoch: int) -> None:
        """Shuffle the images into the order of this epoch."""
        self._order, self._epoch = np.arange(self.split.samples), None
        if self.shuffle_seed is not None:
            self._epoch = (self.shuffle_seed, epoch)
            self._order = np.random.default_rng(self._epoch).permutation(self.split.samples)

    def __len__(self):
        if self.shuffle_seed is None:
            return math.ceil(self.split.samples / self.batch_size)
        return self.split.samples // (self.batch_size * self.accumulate) * self.accumulate

    def __getitem__(self, index):
        chosen = self.share(self._order[index * self.batch_size : (index + 1) * self.batch_size])
        try:
            images, masks = self.split.draw(chosen, self._epoch)
        except RunError as error:
            self._error = error
            raise
        return {"image": images, "mask": masks}

    @contextlib.contextmanager
    def raising_own_errors(self) -> Iterator[None]:
        """Raise an error of reading a batch as it is; TensorFlow replaces it with one of its own."""
        try:
            yield
        except Exception:
            if self._error is not None:
                raise self._error from None
            raise
