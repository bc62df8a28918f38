"""What the tests need to know about file formats."""

import pytest

from benchmarks.export_matrix import writable
from unet.formats import FORMATS

RUNTIMES = {"onnx": ("tf2onnx", "onnxruntime"), "litert": ("ai_edge_litert",), "openvino": ("openvino",)}
"""Modules that write and run a format besides its backend."""


def needs(name: str):
    """Skip where this process cannot write the format."""
    if not writable(name):
        pytest.skip(f"{name} is written by the {FORMATS[name].backend} backend")
    for module in RUNTIMES.get(name, ()):
        pytest.importorskip(module)
