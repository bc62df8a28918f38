"""The interface of a file format: the metadata in a file, how a file is written, and how it runs once loaded."""

import dataclasses
import importlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from unet import records
from unet.colours import Colour, hex_colours
from unet.config.schema import MAX_IMAGE_CHANNELS, MAX_LABELS, SCALES
from unet.data.heads import Head, head_of
from unet.data.images import PixelFormat
from unet.environment import environment_variables
from unet.errors import InputError

ACTIVATIONS = ("softmax", "sigmoid", "none", "classes")
VERSION = 2
"""Version of the metadata. Increase it when a field changes its meaning, not for an additional field with a default."""
PIXELS = "pixels 0 to 255 in RGB order; the network scales them itself"
OTHER_PIXELS = "pixels as in the image files; the network scales them itself"
LICENCE = "not stated; the terms of the training images apply"
LARGEST_SIZE = 2**24
"""Largest number of pixels of an image that a network is run on at once."""
LARGEST_DEPTH = 8
"""Largest number of times that an encoder halves the resolution."""

Side = Annotated[int, Field(ge=1, le=LARGEST_SIZE)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(strict=True, allow_inf_nan=False))
class Metadata:
    """Description of a network that is stored in its file as JSON; every value is checked.

    ``classes``, ``size``, ``dynamic`` and ``activation`` are required. A file written before one of the other fields
    existed is loaded with the field's default.
    """

    version: int = 1
    """Version of these metadata: 1, or 2 for what earlier releases would take for something else: sets of labels, and
    images that are not 3 channels of uint8."""
    classes: Annotated[tuple[records.Label, ...], Field(min_length=1, max_length=255)]
    """Class names, in the order of the output channels."""
    colours: Annotated[tuple[Colour, ...], Field(min_length=1)] = ()
    """Colour of each class in pictures, ``#RRGGBB``; default: the project's palette."""
    size: tuple[Side, Side]
    """Height and width in pixels that the network was trained at; the only accepted size unless ``dynamic``."""
    sampling: Annotated[str, Field(pattern="^(resize|crop)$")] = "resize"
    """What the network was trained on: ``"resize"``: images resized to ``size``; ``"crop"``: windows of ``size``."""
    scale: Annotated[float, Field(ge=SCALES[0], le=SCALES[1])] = 1.0
    """``"crop"``: factor of height and width of the images that windows were cut from."""
    channels: Annotated[int, Field(ge=1, le=MAX_IMAGE_CHANNELS)] = 3
    """Channels of an image: 3 for red, green and blue."""
    dtype: Annotated[str, Field(pattern="^(uint8|uint16|float32)$")] = "uint8"
    """Type of the pixels in the image files; the input is float32 with the same values."""
    dynamic: bool
    """Whether the file accepts any height and width."""
    activation: Annotated[str, Field(pattern="^(softmax|sigmoid|none|classes)$")]
    """``"softmax"``, or of labels ``"sigmoid"``: the output is probabilities; ``"none"``: logits; ``"classes"``: the id
    of each pixel's class, or the set of its labels."""
    head: Annotated[str, Field(pattern="^(softmax|sigmoid|labels)$")] = "softmax"
    """``"labels"``: a pixel may have several of the classes, or none; otherwise it has one. A set of labels is a number
    whose bit k, of value 2ᵏ, is label k."""
    quantization: Annotated[str, Field(pattern="^(none|float16|int8)$")] = "none"
    """``"none"``, ``"float16"`` or ``"int8"``."""
    encoder: records.Label = "plain"
    """Name of the encoder."""
    upsampler: records.Label = "unknown"
    """Name of the decoder's upsampler."""
    normalization: records.Label = PIXELS
    """What the input must be."""
    licence: records.Label = LICENCE
    """Terms of the weights and of the images they were trained on."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Training configuration."""

    @property
    def pixels(self) -> PixelFormat:
        """What the pixels of an image are."""
        return PixelFormat(self.channels, self.dtype)

    def __post_init__(self):
        if not self.colours:
            object.__setattr__(self, "colours", hex_colours(len(self.classes)))
        if len(self.colours) != len(self.classes):
            raise ValueError(f"colours: {len(self.classes)} classes have {len(self.colours)} colours")
        if len(set(self.classes)) < len(self.classes):
            raise ValueError("classes: two have the same name")
        if self.meaning.labels and len(self.classes) > MAX_LABELS:
            raise ValueError(f"classes: {len(self.classes)} labels, and at most {MAX_LABELS} are possible")
        if self.activation in ("softmax", "sigmoid") and self.activation != self.meaning.activation:
            raise ValueError(f"activation: {self.activation} does not suit the head {self.head}")
        if self.size[0] * self.size[1] > LARGEST_SIZE:
            raise ValueError(f"size: {self.size[0]}×{self.size[1]} is more than {LARGEST_SIZE:,} pixels")
        model = self.config.get("model", {})
        depth = model.get("depth", 4) if isinstance(model, dict) else None
        if type(depth) is not int or not 1 <= depth <= LARGEST_DEPTH:
            raise ValueError(f"config.model.depth: should be 1 to {LARGEST_DEPTH}")

    @property
    def meaning(self) -> Head:
        """What the values of a mask mean, and how logits become such values."""
        return head_of(self.head)

    @property
    def stride(self) -> int:
        """Factor by which the encoder reduces an image's height and width."""
        return 2 ** self.config.get("model", {}).get("depth", 4)

    def to_json(self) -> str:
        """Return one line of JSON."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Metadata":
        """Read what :meth:`to_json` of this or an earlier version wrote; unknown fields are ignored.

        Raises:
            ValueError: A newer version wrote it, or it is not metadata of this project; the message is one line.
        """
        content = records.parse(text, dict[str, Any])
        version = content.get("version", VERSION)
        if type(version) is not int or version < 1:
            raise ValueError(f"metadata: version: should be 1 to {VERSION}, received {str(version)[:40]!r}")
        if version > VERSION:
            raise ValueError(
                f"written by a newer version of unet-upsamplers (metadata version {version}, supported up to "
                f"{VERSION}); upgrade unet-upsamplers to read it"
            )
        missing = {"classes", "size", "dynamic", "activation"} - content.keys()
        if missing:
            raise ValueError(f"the metadata lack {', '.join(sorted(missing))}; was it exported by this project?")
        try:
            return records.parse(text, cls)
        except ValueError as error:
            raise ValueError(f"metadata: {error}") from None


class LoadedNetwork:
    """A network loaded in the runtime of its format.

    Attributes:
        path: The file.
        metadata: The file's description of itself.
        compiled: Whether XLA compiles the network, once for each shape of its input.
    """

    path: Path
    metadata: Metadata
    compiled = False

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """Run the network.

        Args:
            pixels: ``(B, H, W, channels)`` as in the image files, of any real dtype; H×W is ``metadata.size`` unless it
                is dynamic.

        Returns:
            float32 ``(B, H, W, classes)``, probabilities or logits; or uint8 ``(B, H, W)``, class ids or sets of
            labels: see ``metadata.activation``.
        """
        raise NotImplementedError

    @property
    def returns_classes(self) -> bool:
        """Whether the output is class ids, without values of the other classes."""
        return self.metadata.activation == "classes"

    def needs_values(self, purpose: str, argument: str = "") -> None:
        """Refuse a purpose that needs the values of all classes, if the output is class ids.

        Raises:
            InputError: The output is class ids.
        """
        if self.returns_classes:
            raise InputError(
                f"{self.path.name} returns the class of each pixel only, and {purpose} needs the values of all "
                "classes; use the run, or a file exported with --activation softmax",
                argument,
            )

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Run the network and return logits, whatever the file's output is.

        Log-probabilities of files that return probabilities: they equal the logits up to a constant per pixel, the
        same for all classes. Resizing, blending or averaging them leads to the same mask and the same probabilities.
        Of labels, the inverse of the sigmoid.
        Arguments and shape as in the call.

        Raises:
            InputError: The file returns class ids, or an array of another shape than its metadata say.
        """
        self.needs_values("this")
        output = self._checked(self(pixels), (*pixels.shape[:3], len(self.metadata.classes)))
        return output if self.metadata.activation == "none" else self.metadata.meaning.logits(output)

    def class_ids(self, pixels: np.ndarray) -> np.ndarray:
        """Run the network and return the class of each pixel, or the set of its labels, whatever the file's output is.

        Returns:
            uint8 ``(B, H, W)``.

        Raises:
            InputError: The output is not what the metadata say.
        """
        if not self.returns_classes:
            return self.metadata.meaning.mask(self.logits(pixels))
        ids = self._checked(self(pixels), pixels.shape[:3])
        largest = self.metadata.meaning.largest(len(self.metadata.classes))
        if ids.dtype != np.uint8 or ids.max(initial=0) > largest:
            raise InputError(
                f"{self.path}: returns {ids.dtype} up to {ids.max(initial=0)}, where its metadata describe the ids of "
                f"{len(self.metadata.classes)} classes; it is damaged, or not what it claims to be"
            )
        return ids

    def _checked(self, output: np.ndarray, expected: tuple[int, ...]) -> np.ndarray:
        if output.shape != expected:
            raise InputError(
                f"{self.path}: returns an array {output.shape} where its metadata describe {expected}; it is damaged, "
                "or not what it claims to be"
            )
        return output

    def _check(self, inputs: Sequence[Sequence], outputs: Sequence[Sequence]) -> None:
        """Compare the network's own inputs and outputs with the metadata.

        Args:
            inputs: Shape of every input; whatever is not a positive whole number counts as dynamic.
            outputs: Shape of every output.

        Raises:
            InputError: They differ.
        """
        check_shapes(self.path, self.metadata, inputs, outputs)


class Format:
    """A file format. To add one, write a subclass and register it in ``unet.formats.FORMATS``.

    Attributes:
        suffix: File name extension; empty for a directory.
        backend: Keras backend that writes the format; ``None``: any.
        quantizations: Accepted values of ``Metadata.quantization`` in addition to ``"none"``.
    """

    suffix: str
    backend: str | None = "tensorflow"
    quantizations: tuple[str, ...] = ()

    @property
    def ending(self) -> str:
        """Text appended to a run's name to name its file."""
        return self.suffix

    def fixed_size(self, quantization: str) -> str:
        """Reason why a file accepts one height and width only; empty if it can accept any."""
        return ""

    def write(self, network, path: Path, metadata: Metadata, examples: np.ndarray) -> None:
        """Write ``network`` with ``metadata`` to ``path``.

        Args:
            network: ``keras.Model`` in float32 that matches ``metadata``.
            path: File name with the extension :attr:`suffix`.
            metadata: Stored in the file; ``metadata.quantization`` is ``"none"`` or one of :attr:`quantizations`.
            examples: Training images ``(N, *metadata.size, metadata.channels)``, used to calibrate int8 ranges.
        """
        raise NotImplementedError

    def load(self, path: Path) -> LoadedNetwork:
        """Load ``path`` in the format's own runtime.

        Raises:
            InputError: The runtime is not installed, or the file was not written by this project.
        """
        raise NotImplementedError

    def recognises(self, path: Path) -> bool:
        """Whether ``path`` looks like a file of this format."""
        return path.suffix == self.suffix and path.is_file()


def check_shapes(path: Path, metadata: Metadata, inputs: Sequence[Sequence], outputs: Sequence[Sequence]) -> None:
    """Compare the shapes of a network's inputs and outputs with its metadata; see :meth:`LoadedNetwork._check`."""
    axes = "(B, H, W)" if metadata.activation == "classes" else "(B, H, W, classes)"
    if [len(shape) for shape in (*inputs, *outputs)] != [4, axes.count(",") + 1] or len(inputs) != 1:
        raise InputError(f"{path}: is not a network from one image (B, H, W, channels) to one array {axes}")
    _, *size, channels = map(_side, inputs[0])
    classes = _side(outputs[0][3]) if len(outputs[0]) == 4 else None
    if channels not in (None, metadata.channels):
        raise InputError(f"{path}: its network takes images of {channels} channels, not {metadata.channels}")
    if classes not in (None, len(metadata.classes)):
        raise InputError(
            f"{path}: its network has {classes} classes, and its metadata name {len(metadata.classes)}; it is damaged, "
            "or not what it claims to be"
        )
    described = (None, None) if metadata.dynamic else metadata.size
    if any(side not in (None, length) for side, length in zip(size, described)):
        shown = "any size" if metadata.dynamic else f"{described[0]}×{described[1]} pixels"
        raise InputError(
            f"{path}: its network takes images of {size[0]}×{size[1]} pixels, and its metadata say {shown}; it is "
            "damaged, or not what it claims to be"
        )


def _side(value) -> int | None:
    """A fixed length, or ``None`` for a dynamic one, which runtimes write as a name, -1 or ``None``."""
    return int(value) if isinstance(value, int | np.integer) and value > 0 else None


def input_signature(metadata: Metadata) -> list:
    """Input that the network is traced for: float32 pixels, any batch size, one image size or any."""
    import keras

    size = (None, None) if metadata.dynamic else metadata.size
    return [keras.InputSpec(shape=(None, *size, metadata.channels), dtype="float32", name="pixels")]


def runtime(module: str, extra: str, path: Path, **environment: str):
    """Import a package that writes or runs ``path``.

    Args:
        module: Name of the module.
        extra: The project's extra that installs it.
        path: The file, named in the error message.
        environment: Environment variables that the module reads while it is imported.

    Raises:
        InputError: It is not installed; the message says how to install it.
    """
    try:
        with environment_variables(**environment):
            return importlib.import_module(module)
    except ImportError as error:
        raise InputError(f"{path}: needs {error.name or module}: pip install '.[{extra}]'") from None
