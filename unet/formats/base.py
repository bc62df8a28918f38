"""What every file format shares: the metadata a file carries, how it is written, and how it runs once loaded."""

import dataclasses
import json
from pathlib import Path

import numpy as np

from unet.errors import InputError, nearest

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
            names = [field.name for field in dataclasses.fields(cls)]
            values = {name: content[name] for name in names}
        except (KeyError, TypeError) as error:
            raise ValueError(f"no metadata of this project ({error})") from None
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


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


class Format:
    """One file format. Adding one: a class with these members, and a line in ``unet.formats.FORMATS``.

    Attributes:
        suffix: Ending of the file's name; of a directory where it is empty.
        backend: Keras backend that the network must be on to be written; ``None``: any.
        extra: Extra of this project that installs what the format needs.
        quantizations: What ``write`` can reduce the numbers to.
        fixed_size: Why a file takes one height and width only, by quantisation; no entry where it takes any.
    """

    suffix: str
    backend: str | None = "tensorflow"
    extra: str | None = None
    quantizations: tuple[str, ...] = ()
    fixed_size: dict[str, str] = {}

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
