"""VGG-16 (Simonyan and Zisserman 2015), whose max-pooling keeps its positions for ``max_unpool``: SegNet's encoder."""

import keras
from keras import layers

from unet.blocks import seed_of, seeded
from unet.encoders.applications import Application
from unet.encoders.base import Level


class VGG16(Application):
    """VGG-16 up to its last pooling, with pooling that keeps the last row of odd sizes."""

    network = "VGG16"
    taps = ()
    blocks = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
    """Filters and number of the convolutions at each stride."""
    scale = 1.0
    offset = (-123.68, -116.779, -103.939)
    swaps_colours = True

    def levels(self, pixels, depth, widths, stage, pool):
        x = self.normalized(pixels, stage)
        found: list[Level] = []
        for i, (filters, count) in enumerate(self.blocks[: depth + 1], start=1):
            for j in range(count):
                name = f"encoder_{i}_block{i}_conv{j + 1}"
                x = layers.Conv2D(
                    filters,
                    3,
                    padding="same",
                    activation="relu",
                    data_format="channels_last",
                    kernel_initializer=seeded(keras.initializers.HeNormal(), seed_of(stage.seed, name)),
                    dtype=stage.dtype,
                    name=name,
                )(x)
            if i > depth:
                return [*found, Level(x)]
            pooled, argmax = pool(x, f"encoder_{i}_pool")
            found.append(Level(x, argmax))
            x = pooled
        return [*found, Level(x)]

    def _names(self, source):
        names = {}
        for layer in source.layers:
            block = layer.name.partition("_")[0].removeprefix("block")
            names[layer.name] = f"encoder_{block}_{layer.name}"
        return names
