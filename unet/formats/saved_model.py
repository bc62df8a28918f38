"""TensorFlow's SavedModel, for TensorFlow Serving and converters."""

from pathlib import Path

import numpy as np

from unet.errors import InputError
from unet.formats.base import Format, LoadedNetwork, Metadata, input_signature, runtime

INFO = Path("assets.extra") / "model_info.json"
"""Path of the metadata, in the folder that SavedModel reserves for files of other tools."""


class SavedModel(Format):
    """A directory with a graph, its weights and the signature ``serving_default``."""

    suffix = ""
    ending = "_savedmodel"

    def write(self, network, path, metadata, examples):
        """Trace the network at its size, or any."""
        network.export(path, format="tf_saved_model", verbose=False, input_signature=input_signature(metadata))
        (path / INFO).parent.mkdir()
        (path / INFO).write_text(metadata.to_json(), encoding="utf-8")

    def load(self, path):
        """Load with ``tf.saved_model.load``."""
        if not (path / INFO).is_file():
            raise InputError(f"{path}: has no {INFO}, so it was not exported by this project")
        return _SavedModelNetwork(path, Metadata.from_json((path / INFO).read_text(encoding="utf-8")))

    def recognises(self, path):
        """A directory with a saved_model.pb."""
        return (path / "saved_model.pb").is_file()


class _SavedModelNetwork(LoadedNetwork):
    def __init__(self, path: Path, metadata: Metadata):
        tensorflow = runtime("tensorflow", "cpu", path)
        self.path, self.metadata = path, metadata
        self._model = tensorflow.saved_model.load(str(path))  # the signature does not keep its variables alive

    def __call__(self, pixels):
        """Call the signature ``serving_default``."""
        (output,) = self._model.signatures["serving_default"](pixels=np.asarray(pixels, np.float32)).values()
        return output.numpy()
