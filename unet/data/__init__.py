"""Images and masks: three sources, one cache, batches and augmentation.

``prepare(config.data)`` is all that training needs; see ``sources.py`` for what a source is.
"""

from dataclasses import replace

from unet.config import DataConfig
from unet.data import cache
from unet.data.cache import Dataset, Split
from unet.data.images import PixelFormat
from unet.data.pets import CLASSES
from unet.data.sources import IGNORE, Problem, Sample, Source, draw
from unet.data.windows import Windows
from unet.errors import InputError


def make_source(config: DataConfig) -> Source:
    """The source that a configuration names.

    Raises:
        InputError: A folder or file that the configuration names is missing.
    """
    if config.source == "pets":
        from unet.data.pets import PetsSource

        return PetsSource(config.data_dir, config.download, config.validation)
    if config.source == "folder":
        from unet.data.folder import FolderSource

        assert config.data_dir is not None  # the configuration has checked it
        pixels = PixelFormat(config.channels, config.dtype)
        return FolderSource(config.data_dir, config.folder, config.validation, pixels)
    from unet.data.shapes import ShapesSource

    return ShapesSource(config.shapes, config.validation)


LICENCES = {
    "pets": "CC BY-SA 4.0; the photographs belong to their owners",
    "shapes": "Apache-2.0",
}
"""Licence of the images, by source."""


def class_names(config: DataConfig) -> tuple[str, ...]:
    """Class names of the configured source; a folder whose classes are not configured is opened to check it.

    Raises:
        InputError: The folder needs class names, or is missing.
    """
    return config.known_classes or make_source(config).classes


def recorded_class_names(config: DataConfig) -> tuple[str, ...]:
    """Class names of a run's data, without opening them.

    Without configured classes a folder can only be the official Pets archive: no other is accepted in training.
    """
    return config.known_classes or CLASSES


def prepare(config: DataConfig, verify: bool = False) -> Dataset:
    """Prepared arrays of the configured source; see :func:`unet.data.cache.prepare`.

    With ``train_fraction`` below 1 the training images are a part of those in the cache, read into memory. With
    ``sampling: crop`` the splits are :class:`~unet.data.cache.Crops`, with windows of ``size``.
    With ``verify`` the arrays are read once, and rebuilt if they have been damaged since they were written.

    Raises:
        InputError: The data cannot be used, or ``train_fraction`` leaves no training image.
    """
    source = make_source(config)
    if config.sampling == "crop":
        dataset = cache.prepare(source, None, config.cache_dir, verify, config.scale)
        weights = config.sampling_weights or {}
        if unknown := sorted(weights.keys() - set(dataset.classes)):
            known = ", ".join(dataset.classes)
            raise InputError(f"data.sampling_weights: there is no class {unknown[0]!r} (classes: {known})")
        chances = {index: weights[name] for index, name in enumerate(dataset.classes) if name in weights}
        dataset = dataset.with_windows(Windows(config.size, config.windows, chances))
    else:
        dataset = cache.prepare(source, config.size, config.cache_dir, verify)
    if config.train_fraction == 1:
        return dataset
    chosen = draw(dataset.train.names, config.train_fraction, "train_fraction")
    if not chosen:
        count = len(dataset.train)
        raise InputError(f"data.train_fraction: {config.train_fraction} leaves none of the {count} training images")
    return replace(dataset, train=dataset.train.only(chosen))


__all__ = [
    "IGNORE",
    "LICENCES",
    "Dataset",
    "Problem",
    "Sample",
    "Source",
    "Split",
    "class_names",
    "make_source",
    "prepare",
    "recorded_class_names",
]
