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


def load_initial_weights(
    network: keras.Model, config: Config, pretrained: dict[str, list[np.ndarray]] | None = None
) -> None:
    """Replace random weights by those that the configuration names.

    ``init_from`` takes precedence over ``model.weights``, which is not even read if the former has the whole encoder.

    Args:
        network: Network that the configuration describes.
        config: Configuration of the run.
        pretrained: What ``model.weights`` names, if it has been read already.

    Raises:
        InputError: Weights cannot be had, or nothing in ``init_from`` fits the network.
    """
    found = _fitting(network, config.init_from) if config.init_from is not None else {}
    own = [layer.name for layer in network.layers if layer.weights and is_encoder(layer)]
    if config.model.weights != "none" and not found.keys() >= set(own):
        if pretrained is None:
            pretrained = read_pretrained(config.model.encoder, config.model.weights)
        assign_pretrained(network, pretrained)
    for name, values in found.items():
        network.get_layer(name).set_weights(values)


def _fitting(network: keras.Model, path: Path) -> dict[str, list[np.ndarray]]:
    """Weights, by layer name, of those layers in a run or file that have the shapes of the network's.

    What fits and what does not is logged.
    """
    file = Run.open(path).trained_network() if os.path.isdir(path) else path
    if not os.path.exists(file):
        raise InputError(f"init_from: {path}: there is no such run or .keras file")
    given = {layer.name: layer for layer in load_saved(file).layers if layer.weights}
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
