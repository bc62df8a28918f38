"""TensorFlow's SavedModel, for TensorFlow Serving and converters."""

from pathlib import Path

import numpy as np

from unet import records
from unet.errors import InputError
from unet.files import open_file
from unet.formats.base import Format, LoadedNetwork, Metadata, input_signature, runtime

INFO = Path("assets.extra") / "model_info.json"
"""Path of the metadata, in the folder that SavedModel reserves for files of other tools."""
_TEXTS = {"data_format", "padding", "mode", "equation", "bad_indices_policy", "config", "config_proto", "executor_type"}
"""Attributes that may be text. Others name files, addresses or Python functions, even of stateless operations."""
_HARMLESS = {"ReadVariableOp", "StatefulPartitionedCall", "Assert"}
"""Stateful operations that only read variables or call checked functions."""


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
        if not (path / INFO).exists():
            raise InputError(f"{path}: has no {INFO}, so it was not exported by this project")
        return _SavedModelNetwork(path, Metadata.from_json(records.text_of(path / INFO)))

    def recognises(self, path):
        """A directory with a saved_model.pb."""
        return (path / "saved_model.pb").is_file()


class _SavedModelNetwork(LoadedNetwork):
    def __init__(self, path: Path, metadata: Metadata):
        tensorflow = runtime("tensorflow", "cpu", path)
        self.path, self.metadata = path, metadata
        _check_graph(path)
        try:
            self._model = tensorflow.saved_model.load(str(path))  # the signature does not keep its variables alive
            self._function = self._model.signatures["serving_default"]
            inputs = self._function.structured_input_signature[1]
            outputs = self._function.structured_outputs
        except Exception as error:  # TensorFlow raises many classes of errors
            raise InputError(f"{path}: TensorFlow cannot load it ({records.cause(error)})") from error
        self._check(*([list(tensor.shape) for tensor in side.values()] for side in (inputs, outputs)))
        (self._name,) = inputs

    def __call__(self, pixels):
        """Call the signature ``serving_default``."""
        import tensorflow

        try:
            (output,) = self._function(**{self._name: tensorflow.constant(np.asarray(pixels, np.float32))}).values()
        except Exception as error:
            raise InputError(f"{self.path}: TensorFlow cannot run it ({records.cause(error)})") from error
        return output.numpy()


def _check_graph(path: Path) -> None:
    """Refuse a graph that could do more than compute numbers: read or write files, or call Python.

    Raises:
        InputError: The graph is damaged, or contains such an operation.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    saved = saved_model_pb2.SavedModel()
    try:
        with open_file(path / "saved_model.pb") as file:
            saved.ParseFromString(file.read())
        (graph,) = saved.meta_graphs
    except Exception as error:  # of protobuf, or the system
        raise InputError(f"{path}: saved_model.pb is damaged ({records.cause(error)})") from error
    if not graph.HasField("object_graph_def"):  # would be loaded as a program of TensorFlow 1
        raise InputError(f"{path}: saved_model.pb has no object graph, so it was not exported by this project")
    functions = {function.signature.name: function for function in graph.graph_def.library.function}
    # All that can be called; the functions that save and restore variables, which access files, are not among them.
    waiting, seen = list(graph.object_graph_def.concrete_functions), set()
    while waiting:
        name = waiting.pop()
        if name in seen or name not in functions:
            continue
        seen.add(name)
        for node in functions[name].node_def:
            if not _computes(node.op):
                raise InputError(
                    f"{path}: contains the operation {node.op}, which does more than compute; it is refused"
                )
            for value in node.attr.values():
                waiting += [value.func.name, *(function.name for function in value.list.func)]


def _computes(operation: str) -> bool:
    """Whether an operation does nothing but compute numbers from numbers and read variables."""
    from tensorflow.core.framework.types_pb2 import DT_STRING
    from tensorflow.python.framework import op_def_registry

    known = op_def_registry.get(operation)
    if known is None or (known.is_stateful and operation not in _HARMLESS):
        return False
    texts = {attribute.name for attribute in known.attr if attribute.type in ("string", "list(string)")}
    return texts <= _TEXTS and all(argument.type != DT_STRING for argument in (*known.input_arg, *known.output_arg))
