"""OpenVINO's intermediate representation, for Intel processors."""

from pathlib import Path

import numpy as np

from unet import records
from unet.errors import InputError
from unet.files import open_file
from unet.formats.base import Format, LoadedNetwork, Metadata, input_signature, runtime

INFO = ["model_info", "metadata"]
"""Path of the metadata in ``rt_info``; OpenVINO's Model API reads class names from ``model_info/labels``."""


class OpenVINO(Format):
    """``.xml`` with the graph, and ``.bin`` next to it with the weights."""

    suffix = ".xml"

    def write(self, network, path, metadata, examples):
        """Convert, then add the metadata."""
        openvino = runtime("openvino", "openvino", path)
        unmarked = path.with_name(f"unmarked-{path.name}")
        network.export(str(unmarked), format="openvino", verbose=False, input_signature=input_signature(metadata))
        model = openvino.Core().read_model(unmarked)
        model.set_rt_info(metadata.to_json(), INFO)
        model.set_rt_info(" ".join(name.replace(" ", "_") for name in metadata.classes), ["model_info", "labels"])
        openvino.serialize(model, path)
        del model
        for part in (unmarked, unmarked.with_suffix(".bin")):
            part.unlink()

    def load(self, path):
        """Load with ``openvino.Core().compile_model``, on the CPU."""
        return _OpenVINONetwork(path)

    def recognises(self, path):
        """An .xml file with its weights next to it."""
        return super().recognises(path) and path.with_suffix(".bin").is_file()


class _OpenVINONetwork(LoadedNetwork):
    def __init__(self, path: Path):
        openvino = runtime("openvino", "openvino", path)
        try:
            for part in (path, path.with_suffix(".bin")):
                open_file(part).close()  # a regular file
            model = openvino.Core().read_model(path, path.with_suffix(".bin"))
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error}") from None
        except RuntimeError as error:
            raise InputError(f"{path}: OpenVINO cannot read it ({str(error).strip().splitlines()[-1]})") from error
        if not model.has_rt_info(INFO):
            raise InputError(f"{path}: has no {'/'.join(INFO)} in its rt_info, so it was not exported by this project")
        self.path, self.metadata = path, Metadata.from_json(model.get_rt_info(INFO).astype(str))
        # Keras' converter also makes outputs of intermediate values, after the network's own.
        self._check(*([_shape(port) for port in side] for side in (model.inputs, model.outputs[:1])))
        try:
            # OpenVINO uses bfloat16 by default where the processor supports it.
            self._compiled = openvino.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        except RuntimeError as error:
            raise InputError(f"{path}: OpenVINO cannot compile it ({records.cause(error)})") from error

    def __call__(self, pixels):
        """Run the compiled model."""
        try:
            return self._compiled(np.asarray(pixels, np.float32))[0]
        except RuntimeError as error:
            raise InputError(f"{self.path}: OpenVINO cannot run it ({records.cause(error)})") from error


def _shape(port) -> list[int]:
    shape = port.get_partial_shape()
    if shape.rank.is_dynamic:  # known only when it is run
        return [-1] * 4
    return [-1 if side.is_dynamic else side.get_length() for side in shape]
