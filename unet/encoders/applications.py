"""Encoders from keras.applications, layer by layer, with padding that keeps every row of odd sizes."""

import contextlib
import functools
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import keras

from unet import records
from unet.encoders.base import IMAGENET, Encoder, Level, adapted, stem
from unet.errors import InputError

TIMEOUT = 30.0
"""Seconds to wait for the server that weights are downloaded from."""
SUFFIXES = (".h5", ".hdf5", ".keras")
"""Endings of files that Keras loads weights from."""


class Application(Encoder):
    """A network of keras.applications up to its last feature map at stride 32.

    Subclasses name the network, and the layer whose output is the last feature map at each stride.
    """

    network: ClassVar[str]
    """Name in keras.applications."""
    taps: ClassVar[tuple[str, ...]]
    """Layers of the source network with the last feature map at strides 2, 4, 8, 16, 32."""
    arguments: ClassVar[dict] = {}
    """Further arguments of the source network."""
    pads_explicitly: ClassVar[bool] = False
    """Whether padding layers precede the strided convolutions, which then lose the last row of odd sizes; padding
    "same" pads even sizes equally and keeps that row."""
    swaps_colours: ClassVar[bool] = False
    """Whether the first convolution was trained on blue, green, red."""

    def levels(self, pixels, depth, widths, stage, pool):
        x = self.normalized(pixels, stage)
        found = [Level(stem(x, stage, widths[0]))]
        source = self._source(None)
        names = self._names(source)
        tensors = {id(source.inputs[0]): x}
        for layer in source.layers[1:]:
            inputs = layer.input if isinstance(layer.input, list) else [layer.input]
            given = [tensors[id(tensor)] for tensor in inputs]
            if self.pads_explicitly and isinstance(layer, keras.layers.ZeroPadding2D):
                tensors[id(layer.output)] = given[0]
                continue
            changes = {"padding": "same"} if self.pads_explicitly and hasattr(layer, "padding") else {}
            copy = adapted(layer, names[layer.name], stage, **changes)
            tensors[id(layer.output)] = copy(given if len(given) > 1 else given[0])
            if layer.name in self.taps:
                found.append(Level(tensors[id(layer.output)]))
            if len(found) > depth:
                break
        return found

    def weights(self, source):
        network = self._source(source)
        names = self._names(network)
        found = {names[layer.name]: layer.get_weights() for layer in network.layers if layer.get_weights()}
        if self.swaps_colours:
            first = next(iter(found))
            found[first][0] = found[first][0][:, :, ::-1]
        return found

    def _source(self, weights: str | Path | None) -> keras.Model:
        """Build the source network, with random weights for ``None``."""
        file = None if weights in (None, IMAGENET) else Path(weights)
        if file and file.suffix not in SUFFIXES:
            raise InputError(f"{file}: must be a file of Keras weights ({', '.join(SUFFIXES)})")
        build = functools.partial(
            getattr(keras.applications, self.network), include_top=False, input_shape=(None, None, 3), **self.arguments
        )
        with _channels_last():
            if weights == IMAGENET:
                return _downloaded(build, self.network)
            network = build(weights=None)
        if file is not None:
            _load(network, file, self.network)
        return network

    def _names(self, source: keras.Model) -> dict[str, str]:
        """Our name of every layer of the source network: that of its stage before its own."""
        names, number = {}, 2
        for layer in source.layers:
            names[layer.name] = f"encoder_{number}_{layer.name.lower()}"
            number += layer.name in self.taps
        return names


def _downloaded(build: Callable[..., keras.Model], network: str) -> keras.Model:
    """Build a source network with weights that Keras keeps in its own folder, downloading them first if need be.

    Keras checks the hash of a file if it knows one; it knows none of MobileNetV2's.
    """
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)
    try:
        with contextlib.redirect_stdout(sys.stderr), warnings.catch_warnings():  # Keras shows progress on stdout
            warnings.filterwarnings("ignore", "`input_shape` is undefined")  # the weights for 224×224 are wanted
            return build(weights="imagenet")
    except Exception as error:  # urllib, HDF5 and Keras raise many classes of errors
        raise InputError(
            f"imagenet: the weights of {network} cannot be downloaded or loaded ({records.cause(error)}). "
            "Download the file where there is a network, and give its path: model.weights=PATH; or train from scratch: "
            "model.weights=none. Keras keeps such files in ~/.keras/models; delete a damaged one there"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _load(network: keras.Model, path: Path, name: str) -> None:
    try:
        network.load_weights(path)
    except Exception as error:  # Keras and HDF5 raise many classes of errors
        raise InputError(
            f"{path}: does not hold the weights of {name} without its classifier ({records.cause(error)})"
        ) from error


@contextlib.contextmanager
def _channels_last() -> Iterator[None]:
    """Build networks of keras.applications with channels last, whatever Keras is configured to."""
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        keras.config.set_image_data_format(before)


class MobileNetV2(Application):
    """MobileNetV2 (Sandler et al. 2018)."""

    network = "MobileNetV2"
    taps = ("expanded_conv_project_BN", "block_2_add", "block_5_add", "block_12_add", "block_16_project_BN")
    pads_explicitly = True


class EfficientNetV2B0(Application):
    """EfficientNetV2-B0 (Tan and Le 2021)."""

    network = "EfficientNetV2B0"
    taps = ("block1a_project_activation", "block2b_add", "block3b_add", "block5e_add", "block6h_add")
    arguments: ClassVar[dict] = {"include_preprocessing": False}
    scale = tuple(1 / (255 * deviation) for deviation in (0.229, 0.224, 0.225))
    offset = tuple(-mean / deviation for mean, deviation in zip((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))


class ResNet50(Application):
    """ResNet-50 (He et al. 2016)."""

    network = "ResNet50"
    taps = ("conv1_relu", "conv2_block3_out", "conv3_block4_out", "conv4_block6_out", "conv5_block3_out")
    scale = 1.0
    offset = (-123.68, -116.779, -103.939)
    swaps_colours = True
