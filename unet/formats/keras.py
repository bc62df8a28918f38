"""Keras' own file, and run directories: loaded on whatever backend Keras runs on."""

import zipfile
from pathlib import Path

import numpy as np

from unet import records
from unet.errors import InputError
from unet.formats.base import Format, LoadedNetwork, Metadata

MEMBER = "model_info.json"
"""Name of the metadata in the archive that a .keras file is."""


class KerasFormat(Format):
    """``.keras``: architecture and weights, for any Keras backend."""

    suffix = ".keras"
    backend = None

    def write(self, network, path, metadata, examples):
        """Save, and add the metadata to the archive."""
        network.save(path)
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(MEMBER, metadata.to_json())

    def load(self, path):
        """Load on the backend of this process."""
        text = records.text_in(path, MEMBER)
        if text is None:
            raise InputError(
                f"{path}: is not a .keras file exported by this project; give the run directory or an exported file"
            )
        return KerasNetwork(path, Metadata.from_json(text))


class KerasNetwork(LoadedNetwork):
    """A ``.keras`` file on the backend of this process.

    Args:
        path: Path shown as the network's name.
        metadata: Description of the network.
        file: The ``.keras`` file, if it is not ``path``.
        jit: Whether to compile the network with XLA, once for each input size. Defaults to True on JAX, which is slow
            otherwise, and False on other backends.
    """

    def __init__(self, path: Path, metadata: Metadata, file: Path | None = None, jit: bool | None = None):
        from unet import backend

        backend.use_backend()
        import keras

        from unet.model import load_saved

        self.path, self.metadata = path, metadata
        self.network = load_saved(file or path)
        self._check(*([tensor.shape for tensor in side] for side in (self.network.inputs, self.network.outputs)))
        self.compiled = keras.backend.backend() == "jax" if jit is None else jit
        self.network.jit_compile = self.compiled

    def __call__(self, pixels):
        """Run on the CPU or GPU that Keras uses."""
        try:
            dtype = np.uint8 if self.returns_classes else np.float32
            return np.asarray(self.network.predict_on_batch(pixels), dtype)
        except Exception as error:  # the backends raise many classes of errors
            raise InputError(f"{self.path}: Keras cannot run it ({records.cause(error)})") from error
