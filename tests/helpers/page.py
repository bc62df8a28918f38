"""The demo page with stand-in networks."""

import numpy as np

from unet import page
from unet.formats import Metadata


class Columns:
    """A stand-in network: the left ``share`` is dog, the rest cat; in tiles, the lower half is background."""

    def __init__(self, name="columns", share=0.25, classes=("cat", "dog & <b>wolf</b>", "background")):
        self.name = name
        self.share = share
        colours = ("#112233", "#445566", "#778899")
        self.metadata = Metadata(
            classes=classes, colours=colours, size=(32, 48), dynamic=True, activation="none", upsampler="carafe"
        )

    def predict(self, image, mode="resize", flip=False):
        height, width = image.shape[:2]
        mask = np.zeros((height, width), np.uint8)
        mask[:, : round(width * self.share)] = 1
        if mode == "tile":
            mask[height // 2 :] = 2
        return mask[:, ::-1] if flip else mask


def serve():
    """Serve a page with two stand-ins, for the browser."""
    page.serve([Columns("runs one"), Columns("two", share=0.5)], page.listen(port=0), max_upload_mb=1)
