"""What every file format shares: the metadata a file carries, how it is written, and how it runs once loaded."""

import dataclasses
import importlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from unet.errors import InputError

ACTIVATIONS = ("softmax", "none")


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a file says about itself, in its format's own way, as JSON."""

    classes: tuple[str, ...]
    """Class names, in the order of the output channels."""
    colours: tuple[str, ...]
    """Colour of each class in pictures, ``#RRGGBB``."""
    size: tuple[int, int]
    """Height and width in pixels that the network was trained at; where ``dynamic`` is false the only one it takes."""
    dynamic: bool
    """Whether the file takes any height and width."""
    activation: str
    """``"softmax"``: the output is probabilities; ``"none"``: logits."""
    quantization: str
    """``"none"``, ``"float16"`` or ``"int8"``."""
    upsampler: str
    """Name of the decoder's upsampler."""
    normalization: str
    """What the input must be."""
    licence: str
    """Terms of the weights and of the images they were trained on."""
    config: dict
    """The configuration it was trained with."""

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Metadata":
        """Read what :meth:`to_json` wrote.

        Raises:
            ValueError: It is something else.
        """
        try:
            content = json.loads(text)
            values: dict[str, Any] = {field.name: content[field.name] for field in dataclasses.fields(cls)}
        except (KeyError, TypeError) as error:
            raise ValueError(f"no metadata of this project ({error})") from None
        values |= {name: tuple(value) for name, value in values.items() if isinstance(value, list)}
        return cls(**values)


class LoadedNetwork:
    """A network loaded in the runtime of its format.

    Attributes:
        path: The file.
        metadata: What it says about itself.
    """

    path: Path
    metadata: Metadata

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Run the network.

        Args:
            pixels: ``(B, H, W, 3)`` in 0..255, of any real dtype; H×W is ``metadata.size`` where it is not dynamic.

        Returns:
            float32 ``(B, H, W, classes)``: probabilities or logits, as ``metadata.activation`` says.
        """
        raise NotImplementedError

    def scores(self, pixels: np.ndarray) -> np.ndarray:
        """Logits, or logarithms of the probabilities, which are logits less a number of each pixel's own.

        Resized, blended or averaged, both lead to the same mask. Arguments and shape as in the call.
        """
        output = self(pixels)
        return logarithm(output) if self.metadata.activation == "softmax" else output


class Format:
    """One file format. Adding one: a class with these members, and a line in ``unet.formats.FORMATS``.

    Attributes:
        suffix: Ending of the file's name; of a directory where it is empty.
        backend: Keras backend that the network must be on to be written; ``None``: any.
        quantizations: What ``write`` can reduce the numbers to.
    """

    suffix: str
    backend: str | None = "tensorflow"
    quantizations: tuple[str, ...] = ()

    @property
    def ending(self) -> str:
        """What is added to a run's name."""
        return self.suffix

    def fixed_size(self, quantization: str) -> str:
        """Why a file takes one height and width only; empty where it can take any."""
        return ""

    def write(self, network, path: Path, metadata: Metadata, examples: np.ndarray) -> None:
        """Write ``network`` with ``metadata`` to ``path``.

        Args:
            network: ``keras.Model`` in float32, as ``metadata`` says.
            path: Ends in :attr:`suffix`.
            metadata: Goes into the file; ``metadata.quantization`` is one of :attr:`quantizations`.
            examples: Training images, uint8 ``(N, *metadata.size, 3)``, to find the ranges of int8 numbers.
        """
        raise NotImplementedError

    def load(self, path: Path) -> LoadedNetwork:
        """Load ``path`` in the format's own runtime.

        Raises:
            InputError: The runtime is not installed, or the file is not one of this project's.
        """
        raise NotImplementedError

    def recognises(self, path: Path) -> bool:
        """Whether ``path`` looks like this format."""
        return path.suffix == self.suffix and path.is_file()


def logarithm(probabilities: np.ndarray) -> np.ndarray:
    """Of probabilities down to 1e-7: what lies below says nothing in float32."""
    return np.log(np.maximum(probabilities, 1e-7))


def input_signature(metadata: Metadata) -> list:
    """What the network is traced for: float32 pixels of any batch, at one size or any."""
    import keras

    size = (None, None) if metadata.dynamic else metadata.size
    return [keras.InputSpec(shape=(None, *size, 3), dtype="float32", name="pixels")]


def runtime(module: str, extra: str, path: Path):
    """Import what writes or runs ``path``.

    Raises:
        InputError: It is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{path}: needs {error.name or module}: pip install '.[{extra}]'") from None
