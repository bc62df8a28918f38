"""PyTorch's exported program (``.pt2``), for PyTorch without Keras."""

from pathlib import Path

import numpy as np

from unet import records
from unet.console import quiet_stderr
from unet.errors import InputError
from unet.formats.base import Format, LoadedNetwork, Metadata, input_signature, runtime
from unet.formats.torch_archive import checked

MEMBER = "model_info.json"
"""Name of the metadata in the file's ``extra_files``."""


class ExportedProgram(Format):
    """``.pt2``: ATen operations and weights, traced by ``torch.export``."""

    suffix = ".pt2"
    backend = "torch"

    def fixed_size(self, quantization):
        return "torch.export traces one path through the code, and padding and cropping depend on the size"

    def write(self, network, path, metadata, examples):
        """Trace at one height and width, for any batch size."""
        import torch

        network.export(
            path,
            format="torch",
            verbose=False,
            input_signature=input_signature(metadata),
            dynamic_shapes={0: torch.export.Dim("batch")},
        )
        program = torch.export.load(path)
        torch.export.save(program, path, extra_files={MEMBER: metadata.to_json()})

    def load(self, path):
        """Load with ``torch.export.load``."""
        return _ExportedNetwork(path)


class _ExportedNetwork(LoadedNetwork):
    def __init__(self, path: Path):
        torch = runtime("torch", "torch", path)
        extra = {MEMBER: ""}
        try:
            archive = checked(path)
            with quiet_stderr():  # PyTorch prints tracebacks before it fails
                program = torch.export.load(archive, extra_files=extra)
                module = program.module()
            inputs = [tuple(tensor.shape) for tensor in _user_tensors(program, "user_inputs")]
            outputs = [tuple(tensor.shape) for tensor in _user_tensors(program, "user_outputs")]
        except InputError:
            raise
        except Exception as error:  # of zip, pickle or torch
            raise InputError(f"{path}: PyTorch cannot load it ({records.cause(error)})") from error
        if not extra[MEMBER]:
            raise InputError(f"{path}: has no {MEMBER} in its extra files, so it was not exported by this project")
        self.path, self.metadata = path, Metadata.from_json(extra[MEMBER])
        self._check(inputs, outputs)
        self._torch, self._module = torch, module

    def __call__(self, pixels):
        """Run the program's module."""
        try:
            with self._torch.no_grad():
                return self._module(self._torch.from_numpy(np.array(pixels, np.float32))).numpy()
        except Exception as error:
            raise InputError(f"{self.path}: PyTorch cannot run it ({records.cause(error)})") from error


def _user_tensors(program, side: str) -> list:
    """Inputs or outputs of a program, without its weights, as tensors that have a shape only."""
    names = getattr(program.graph_signature, side)
    return [node.meta["val"] for node in program.graph.nodes if node.name in names]
