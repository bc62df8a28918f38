"""The weights that a run starts from: random, pretrained, or those of another network."""

import logging
import os
from pathlib import Path

import keras
import numpy as np

from unet.config import Config
from unet.encoders.weights import assign_pretrained, is_encoder, read_pretrained
from unet.errors import InputError, shortened
from unet.model import load_saved
from unet.runs import Run

log = logging.getLogger("unet")


class InitialWeights:
    """The weights that a configuration names, read at once so that what is missing is reported early.

    ``init_from`` takes precedence over ``model.weights``, which is not even read if the former has the whole encoder.

    Args:
        config: Configuration of the run.

    Raises:
        InputError: Weights cannot be had.
    """

    def __init__(self, config: Config):
        self._config = config
        self._source = None if config.init_from is None else _saved(config.init_from)
        self._pretrained = self._read_pretrained() if config.init_from is None else None

    def assign(self, network: keras.Model) -> None:
        """Replace random weights of the network that the configuration describes.

        Raises:
            InputError: Nothing in ``init_from`` fits the network, or weights that it lacks cannot be had.
        """
        found = {} if self._source is None else _fitting(network, self._source, self._config.init_from)
        own = [layer.name for layer in network.layers if layer.weights and is_encoder(layer)]
        if not found.keys() >= set(own):
            pretrained = self._pretrained or self._read_pretrained()
            if pretrained is not None:
                assign_pretrained(network, pretrained)
        for name, values in found.items():
            network.get_layer(name).set_weights(values)

    def _read_pretrained(self) -> dict[str, list[np.ndarray]] | None:
        model = self._config.model
        return None if model.weights == "none" else read_pretrained(model.encoder, model.weights)


def _saved(path: Path) -> keras.Model:
    """The network of a run or file."""
    file = Run.open(path).trained_network() if os.path.isdir(path) else path
    if not os.path.exists(file):
        raise InputError(f"init_from: {path}: there is no such run or .keras file")
    return load_saved(file)


def _fitting(network: keras.Model, source: keras.Model, path: Path | None) -> dict[str, list[np.ndarray]]:
    """Weights, by layer name, of those layers of another network that have the shapes of the network's.

    What fits and what does not is logged; ``path`` is where the other network is from.
    """
    given = {layer.name: layer for layer in source.layers if layer.weights}
    wanted = {layer.name: layer for layer in network.layers if layer.weights}
    absent = [name for name in wanted if name not in given]
    different = [name for name in wanted if name in given and _shapes(given[name]) != _shapes(wanted[name])]
    found = {name: given[name].get_weights() for name in wanted if name not in {*absent, *different}}
    unused = [name for name in given if name not in wanted]
    rest = "".join(
        f"; {description}: {len(names)} ({shortened(', '.join(names))})"
        for description, names in (("other shapes", different), ("not in it", absent), ("not needed", unused))
        if names
    )
    if not found:
        raise InputError(f"init_from: {path}: no layer fits this network{rest}")
    loaded, total = (sum(wanted[name].count_params() for name in names) for names in (found, wanted))
    log.info(
        "initial weights from %s: %d of %d layers, %s of %s weights%s",
        *(path, len(found), len(wanted), f"{loaded:,}", f"{total:,}", rest),
    )
    return found


def _shapes(layer: keras.Layer) -> list[tuple]:
    return [(weight.name, *weight.shape) for weight in layer.weights]
