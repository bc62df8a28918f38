"""LiteRT (TensorFlow Lite), for phones and embedded devices."""

import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from unet import records
from unet.errors import InputError
from unet.formats.base import Format, LoadedNetwork, Metadata, input_signature, runtime

MEMBER = "model_info.json"
LABELS = "labels.txt"
"""Members of LiteRT's metadata, a zip archive at the end of the file."""


class LiteRT(Format):
    """``.tflite`` with LiteRT's built-in operations only; optionally float16 weights, or int8 throughout."""

    suffix = ".tflite"
    quantizations = ("float16", "int8")

    def fixed_size(self, quantization):
        reason = (
            "with any size, positions and interpolation weights would be computed in float32; "
            "with one size they are integer constants"
        )
        return reason if quantization == "int8" else ""

    def write(self, network, path, metadata, examples):
        """Convert, quantize if requested, and append the metadata."""
        import tensorflow as tf

        options: dict[str, Any] = {}
        target: dict[str, Any] = {}
        operations = tf.lite.OpsSet.TFLITE_BUILTINS
        if metadata.quantization != "none":
            options["optimizations"] = [tf.lite.Optimize.DEFAULT]
        if metadata.quantization == "float16":
            target["supported_types"] = [tf.float16]
        if metadata.quantization == "int8":
            operations = tf.lite.OpsSet.TFLITE_BUILTINS_INT8
            options["representative_dataset"] = lambda: ([image[None].astype(np.float32)] for image in examples)
            options["inference_input_type"] = options["inference_output_type"] = tf.uint8
        target["supported_ops"] = [operations]
        network.export(
            path,
            format="litert",
            verbose=False,
            input_signature=input_signature(metadata),
            target_spec=target,
            **options,
        )
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(MEMBER, metadata.to_json())
            archive.writestr(LABELS, "\n".join(metadata.classes) + "\n")

    def load(self, path):
        """Load with ``ai_edge_litert.interpreter.Interpreter``."""
        text = records.text_in(path, MEMBER)
        if text is None:
            raise InputError(f"{path}: has no metadata, so it was not exported by this project")
        return _LiteRTNetwork(path, Metadata.from_json(text))


class _LiteRTNetwork(LoadedNetwork):
    def __init__(self, path: Path, metadata: Metadata):
        interpreter = runtime("ai_edge_litert.interpreter", "litert", path)
        self.path, self.metadata = path, metadata
        try:
            self._interpreter = interpreter.Interpreter(str(path), num_threads=os.cpu_count())
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{path}: LiteRT cannot load it ({records.cause(error)})") from error
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self._check(*([details["shape_signature"] for details in side] for side in (inputs, outputs)))
        (self._input,), (self._output,) = inputs, outputs
        self._shape: tuple[int, ...] | None = None

    def __call__(self, pixels):
        """Invoke the interpreter; for 8-bit files, quantize the pixels and dequantize the output."""
        try:
            if pixels.shape != self._shape:
                self._interpreter.resize_tensor_input(self._input["index"], pixels.shape)
                self._interpreter.allocate_tensors()
                self._shape = pixels.shape
            self._interpreter.set_tensor(self._input["index"], _quantized(np.asarray(pixels), self._input))
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            raise InputError(f"{self.path}: LiteRT cannot run it ({records.cause(error)})") from error
        return _dequantized(self._interpreter.get_tensor(self._output["index"]), self._output)


def _quantized(pixels, details):
    if details["dtype"] == np.float32:
        return pixels.astype(np.float32)
    scale, zero = details["quantization"]
    return np.clip(np.round(pixels / scale + zero), 0, 255).astype(details["dtype"])


def _dequantized(values, details):
    if details["dtype"] == np.float32 or not details["quantization"][0]:  # class ids have no scale
        return values
    scale, zero = details["quantization"]
    return (values.astype(np.float32) - zero) * np.float32(scale)
