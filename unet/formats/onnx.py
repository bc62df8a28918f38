"""ONNX, for ONNX Runtime and other runtimes that read it."""

import contextlib
import json
import logging
import warnings
from pathlib import Path

import numpy as np

from unet import records
from unet.errors import InputError
from unet.files import open_file
from unet.formats.base import Format, LoadedNetwork, Metadata, input_signature, runtime

KEY = "model_info"
"""Key of the metadata in the file's ``metadata_props``."""
NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1"}
"""ONNX Runtime reads this while it is imported."""


class Onnx(Format):
    """``.onnx``: one file, written by tf2onnx and quantized to int8 by ONNX Runtime."""

    suffix = ".onnx"
    quantizations = ("int8",)

    def write(self, network, path, metadata, examples):
        """Convert, quantize if requested, and add the metadata."""
        onnx = runtime("onnx", "onnx", path)
        runtime("tf2onnx", "onnx", path, **NO_TELEMETRY)
        logging.getLogger("tf2onnx").setLevel(logging.ERROR)  # it logs every optimization pass
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy functions that Keras calls and that are deprecated
            network.export(path, format="onnx", verbose=False, input_signature=input_signature(metadata))
        if metadata.quantization == "int8":
            _quantize(path, examples)
        model = onnx.load(path)
        _name(model, metadata)
        onnx.helper.set_model_props(model, {KEY: metadata.to_json(), "classes": json.dumps(metadata.classes)})
        onnx.save(model, path)

    def load(self, path):
        """Load with ``onnxruntime.InferenceSession``, on the CPU."""
        return _OnnxNetwork(path)


class _OnnxNetwork(LoadedNetwork):
    def __init__(self, path: Path):
        onnxruntime = runtime("onnxruntime", "onnx", path, **NO_TELEMETRY)
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.load_model_format", "ONNX")
        try:
            with open_file(path) as file:
                content = file.read()
            # From memory, ONNX Runtime reads no other file, whatever paths the file contains.
            self._session = onnxruntime.InferenceSession(
                content,
                options,
                providers=["CPUExecutionProvider"],
                enable_fallback=0,  # to the same provider, with a message on standard output
            )
        except Exception as error:  # ONNX Runtime raises a different class for each kind of failure
            raise InputError(f"{path}: ONNX Runtime cannot load it ({records.cause(error)})") from error
        inputs, outputs = self._session.get_inputs, self._session.get_outputs
        properties = self._session.get_modelmeta().custom_metadata_map
        if KEY not in properties:
            raise InputError(f"{path}: has no {KEY} in its metadata, so it was not exported by this project")
        self.path, self.metadata = path, Metadata.from_json(properties[KEY])
        self._check(*([tensor.shape for tensor in side] for side in (inputs(), outputs())))
        self._input = inputs()[0].name

    def __call__(self, pixels):
        """Run the session."""
        try:
            (output,) = self._session.run(None, {self._input: np.asarray(pixels, np.float32)})
        except Exception as error:
            raise InputError(f"{self.path}: ONNX Runtime cannot run it ({records.cause(error)})") from error
        return output


def _name(model, metadata: Metadata) -> None:
    """Name the output after its content, and the variable axes batch, height and width."""
    (output,) = model.graph.output
    titles = {"softmax": "probabilities", "sigmoid": "probabilities", "none": "logits", "classes": "classes"}
    before, output.name = output.name, titles[metadata.activation]
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [output.name if name == before else name for name in names]
    for tensor in (model.graph.input[0], output):
        axes = zip(("batch", "height", "width"), tensor.type.tensor_type.shape.dim, strict=False)
        for name, axis in axes:
            if not axis.dim_value:
                axis.dim_param = name


def _quantize(path: Path, examples: np.ndarray) -> None:
    """Convert weights and activations to int8, with ranges calibrated on the examples."""
    quantization = runtime("onnxruntime.quantization", "onnx", path, **NO_TELEMETRY)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[name-defined]
        def __init__(self):
            self.batches = iter(examples[:, None])

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {"pixels": batch.astype(np.float32)}

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it recommends the preprocessing that is done here
    prepared = path.with_name(f"prepared-{path.name}")
    try:
        with contextlib.suppress(Exception):  # an optimization that not every graph supports
            quantization.quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared if prepared.is_file() else path,
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            # Weights of 7 bits: without VNNI, processors add two products in 16 bits, and 2 · 255 · 127 is too large.
            reduce_range=True,
        )
    finally:
        prepared.unlink(missing_ok=True)
        root.setLevel(level)
