"""The sections of the configuration, as typed classes."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from unet.colours import Colour
from unet.config import document
from unet.encoders import ENCODERS
from unet.encoders.plan import MAX_CHANNELS, Plan, default_depth, doubled
from unet.errors import nearest, shortened
from unet.settings import BY_KIND, BY_TEXT, OF_MAPPING, OF_OTHER, OF_TEXT, Expected, Mistakes, Settings, shown
from unet.upsamplers import UPSAMPLERS
from unet.upsamplers.settings import Options

PETS_CLASSES = ("pet", "background", "border")
"""Classes of Oxford-IIIT Pets, and of the drawn shapes, in the order of their ids."""
HEADS = ("softmax", "sigmoid", "labels")
"""What a network can end in."""
MAX_LABELS = 7
"""Most labels of a pixel, which are the bits of its value in a mask."""

# === Values that YAML may write in several ways ===


def _as_pair(value):
    """Read ``128`` as ``[128, 128]``."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    return _as_tuple(value)


def _as_tuple(value):
    return tuple(value) if isinstance(value, list) else value


def _as_marks(value):
    """Read a grey value, a colour, or a list of either."""
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _as_classes(value):
    """Class names as a mapping from names to the grey value or colour that represents each in the masks."""
    if value is None:
        return None
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        entries = {name: index for index, name in enumerate(value)}
        if len(entries) < len(value):
            raise ValueError("duplicate class name")
    elif isinstance(value, dict) and all(isinstance(name, str) for name in value):
        entries = {name: _as_tuple(mark) for name, mark in value.items()}
        if len({str(mark) for mark in entries.values()}) < len(entries):
            raise ValueError("two classes have the same value in the masks")
    else:
        accepted = "a list of names, or a mapping from names to grey values or [r, g, b] colours"
        raise ValueError(f"must be {accepted}, received {shown(value)}")
    for name, mark in entries.items():
        if not is_plain(name) or not 1 <= len(name) <= MAX_CLASS_NAME:
            raise ValueError(f"a class name must be {_CLASS_NAME}, received {shown(name)}")
        channels = mark if isinstance(mark, tuple) else (mark,)
        if len(channels) not in (1, 3) or not all(type(c) is int and 0 <= c <= 255 for c in channels):
            raise ValueError(
                f"{name}: {shown(mark)} is neither a grey value 0..255 nor a colour [r, g, b] of values 0..255"
            )
    if not 2 <= len(entries) <= 255:
        raise ValueError(f"must name 2 to 255 classes, received {len(entries)}")
    if len({isinstance(mark, tuple) for mark in entries.values()}) > 1:
        raise ValueError("grey values and colours cannot be mixed")
    return entries


def _as_colour(value):
    """Read ``[230, 159, 0]`` as ``"#E69F00"``."""
    if isinstance(value, list) and len(value) == 3 and all(type(c) is int and 0 <= c <= 255 for c in value):
        return "#{:02X}{:02X}{:02X}".format(*value)
    return value


def _as_path(value):
    """Refuse what no file can be called, before it reaches the operating system."""
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not is_plain(value) or len(value) > MAX_TEXT:
        raise ValueError(f"must be a path, {_TEXT}, received {shown(value)}")
    return Path(value)


def _as_weights(value):
    """Read ``null`` as ``none``."""
    return "none" if value is None else value


def _default_weights(model: dict[str, Any]) -> str:
    entry = ENCODERS.get(model.get("encoder", "plain"))
    return "imagenet" if entry and entry.pretrained else "none"


def _default_normalization(data: dict[str, Any]) -> Any:
    return None if (data.get("channels"), data.get("dtype")) == PICTURE else "auto"


def _default_depth(model: dict[str, Any]) -> int:
    return default_depth(model.get("encoder", "plain"))


def is_plain(text: str) -> bool:
    """Whether text is on one line, without control characters, and can be encoded as UTF-8."""
    return bool(re.fullmatch(PLAIN, text)) and not re.search("[\ud800-\udfff]", text)


def _as_upsampler(value):
    """Read ``bilinear`` as ``{name: bilinear}``."""
    return {"name": value} if isinstance(value, str) else value


PLAIN = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
"""Text on one line that a terminal shows as it is."""
MAX_TEXT = 4096
"""Most characters of a path or a file name."""
MAX_CLASS_NAME = 100
"""Most characters of a class name."""
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
"""Name of a run or an ablation, and of its directory."""
MAX_NAME = 200
"""Most characters of such a name."""
NAME_RULE = f"letters, digits, '.', '_' and '-', beginning with a letter or digit, at most {MAX_NAME} characters"
MAX_WEIGHTS = 10**9
"""Most weights of a network: 4 GB, and several times as much in training."""
MAX_COUNT = 10**6
"""Most epochs, or images."""
LARGEST = 1e30
"""Largest value of a setting without another bound; float32 holds it and its products with small numbers."""
SMALLEST = 1e-3
"""Smallest area of a crop, and smallest factor of its aspect ratio; float32 holds their products and quotients."""
MAX_SCALE = 16
"""Largest area of a crop, in areas of the image, which is then a quarter as high and wide."""
PICTURE = (3, "uint8")
"""Channels and type of the pixels of ordinary pictures."""
MAX_IMAGE_CHANNELS = 1024
"""Most channels of an image."""
SCALES = (0.01, 16.0)
"""Least and largest factor of the sides of images from which windows are cut."""
_TEXT = f"text without control characters, at most {MAX_TEXT:,} characters"
_CLASS_NAME = f"text of 1 to {MAX_CLASS_NAME} characters without control characters"

Count = Annotated[int, Field(ge=1, le=MAX_COUNT)]
Channels = Annotated[int, Field(ge=1, le=MAX_CHANNELS)]
Pixels = Annotated[int, Field(ge=1, le=2**14)]
Text = Annotated[str, Field(max_length=MAX_TEXT, pattern=PLAIN), Expected(_TEXT)]
ClassName = Annotated[str, Field(min_length=1, max_length=MAX_CLASS_NAME, pattern=PLAIN), Expected(_CLASS_NAME)]
Byte = Annotated[int, Field(ge=0, le=255)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0, le=LARGEST)]
Finite = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Positive = Annotated[float, Field(ge=1 / LARGEST, le=LARGEST)]
Size = Annotated[tuple[Pixels, Pixels], BeforeValidator(_as_pair), Expected("one whole number or two, [height, width]")]
Range = Annotated[tuple[float, float], BeforeValidator(_as_tuple), Expected("two numbers, [low, high]")]
LenientPath = Annotated[Path, BeforeValidator(_as_path)]
ClassColour = Annotated[
    Colour, BeforeValidator(_as_colour), Expected('"#RRGGBB", in quotes, or [r, g, b] of values 0..255')
]
Mark = Byte | tuple[Byte, Byte, Byte]
Name = Annotated[str, Field(pattern=NAME, max_length=MAX_NAME), Expected(NAME_RULE)]
Activation = Literal["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "tanh"]
AnyActivation = Literal[
    Activation, "celu", "exponential", "hard_shrink", "hard_sigmoid", "hard_silu", "hard_swish", "hard_tanh", "linear",
    "log_sigmoid", "log_softmax", "relu6", "sigmoid", "soft_shrink", "softmax", "softplus", "softsign", "sparse_plus",
    "sparse_sigmoid", "sparsemax", "squareplus", "swish", "tanh_shrink",
]  # fmt: skip
"""Every activation of Keras that keeps the shape and needs no arguments."""


# === Sections ===


class SplitFolders(Settings):
    """Folders of one split."""

    images: Text
    """Folder of its images, inside data_dir; subfolders are searched too."""
    masks: Text
    """Folder of its masks, inside data_dir, or a .json file of COCO instance annotations."""


SplitPlace = Annotated[
    Annotated[Annotated[SplitFolders, OF_MAPPING] | Annotated[Text, OF_OTHER], BY_KIND] | None,
    Expected("the name of a text file, or a mapping {images: FOLDER, masks: FOLDER}"),
]
"""Where the names of a split's images are from."""


class FolderConfig(Settings):
    """Your own images and masks (``data.source: folder``)."""

    images: Text = "images"
    """Folder of the images, inside data_dir; subfolders are searched too."""
    masks: Annotated[
        Annotated[Annotated[dict[ClassName, Text], OF_MAPPING] | Annotated[Text, OF_OTHER], BY_KIND],
        Expected("the name of a folder or file, or a mapping from labels to the folders of their masks"),
    ] = "masks"
    """Folder of the masks, inside data_dir; a mask has the name of its image and an image ending such as .png. Or a
    .json file of COCO instance annotations. Or, if a pixel may have several labels or none, a mapping from each label
    to the folder of its masks, whose pixels are 0, or 1 or 255 where the label is set."""
    image_suffix: Text = ""
    """End of the images' names before .jpg or .png that the masks' names do not have, such as _leftImg8bit."""
    mask_suffix: Text = ""
    """End of the masks' names before .png that the images' names do not have, such as _mask."""
    classes: Annotated[dict[ClassName, Mark] | None, BeforeValidator(_as_classes)] = None
    """Names in the order of their ids, or a mapping from each name to its grey value or [r, g, b] in the masks."""
    ignore: Annotated[
        Byte | Annotated[tuple[Mark, ...], Field(min_length=1, max_length=256)] | None,
        BeforeValidator(_as_marks),
        Expected("a grey value 0..255, a colour [r, g, b], or a list of them"),
    ] = 255
    """Grey value (or colour, if classes have colours) of pixels that are ignored in training and evaluation, or a list
    of them."""
    train: SplitPlace = None
    """Training images: a text file, inside data_dir, with one image per line (its name, or the paths of image and
    mask), or a mapping {images: FOLDER, masks: FOLDER}; requires test."""
    validation: SplitPlace = None
    """Validation images, likewise; by default they are drawn from the training images."""
    test: SplitPlace = None
    """Test images, likewise; by default they are drawn by name, see test_fraction."""
    test_fraction: Annotated[float, Field(ge=0, le=0.9)] = 0.2
    """Fraction of the images drawn for the test split if train and test are not given."""

    @property
    def labels(self) -> tuple[str, ...] | None:
        """Labels of which a pixel may have several or none; ``None`` if it has one class."""
        return tuple(self.masks) if isinstance(self.masks, dict) else None

    @model_validator(mode="after")
    def _labels_have_folders(self):
        if not isinstance(self.masks, dict):
            return self
        if not 1 <= len(self.masks) <= MAX_LABELS:
            raise Mistakes.of("masks", f"must name 1 to {MAX_LABELS} labels, received {len(self.masks)}")
        if files := [folder for folder in self.masks.values() if folder.lower().endswith(".json")]:
            raise Mistakes.of("masks", f"must be a folder of masks for each label, received {shown(files[0])}")
        if self.classes is not None:
            raise Mistakes.of(
                "classes", "cannot be given if each label has a folder of masks: the labels are named there"
            )
        for split in ("train", "validation", "test"):
            if isinstance(getattr(self, split), SplitFolders):
                raise Mistakes.of(split, "must be a text file of names if each label has a folder of masks")
        return self

    @model_validator(mode="after")
    def _splits_go_together(self):
        if (self.train is None) != (self.test is None):
            raise ValueError("give both train and test, or neither")
        if self.validation is not None and self.train is None:
            raise ValueError("validation requires train and test")
        return self


class ShapesConfig(Settings):
    """Synthetic scenes (``data.source: shapes``)."""

    train: Annotated[int, Field(ge=2, le=MAX_COUNT)] = 480
    """Number of training scenes, including those for validation."""
    test: Count = 120
    """Number of test scenes."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the scenes."""


def _rounded(value: float) -> float:
    return float(f"{value:.7g}")


class Normalization(Settings):
    """Mean and standard deviation of the pixels of each channel, by which the network normalizes them."""

    mean: Annotated[tuple[Finite, ...], BeforeValidator(_as_tuple)]
    """Mean of each channel."""
    deviation: Annotated[tuple[Positive, ...], BeforeValidator(_as_tuple)]
    """Standard deviation of each channel."""

    @classmethod
    def of(cls, mean: tuple[float, ...], deviation: tuple[float, ...]) -> "Normalization":
        """Values that training has found, rounded to what float32 holds."""
        return cls(
            mean=tuple(_rounded(value) for value in mean), deviation=tuple(_rounded(value) for value in deviation)
        )


class DataConfig(Settings):
    """Source of images and masks, and how they become the network's input."""

    source: Literal["pets", "folder", "shapes"] = "pets"
    """pets: Oxford-IIIT Pets from TFDS. folder: your own files. shapes: synthetic scenes for demos and tests."""
    size: Size = (128, 128)
    """Height and width in pixels of the network's input; one number for a square."""
    channels: Annotated[int, Field(ge=1, le=MAX_IMAGE_CHANNELS)] = 3
    """folder: channels of the images: 3 for red, green and blue, 1 for grey, or another number in .tif and .npy
    files."""
    dtype: Literal["uint8", "uint16", "float32"] = "uint8"
    """folder: type of the pixels; no bits are lost."""
    normalization: Annotated[
        Annotated[Annotated[Normalization, OF_MAPPING] | Annotated[Literal["auto"], OF_OTHER], BY_KIND] | None,
        Expected("auto, or a mapping {mean: [...], deviation: [...]}"),
    ] = Field(default_factory=_default_normalization)
    """auto: the network normalizes each channel by its mean and standard deviation in the training images, found when
    the run starts; config.yaml of the run has the numbers. null, the default for 3 channels of uint8: as the encoder's
    authors did."""
    sampling: Literal["resize", "crop"] = "resize"
    """resize: every image is resized to data.size. crop: images keep their own size, training takes random windows of
    data.size from them, and evaluation and prediction cover whole images with overlapping tiles of data.size."""
    scale: Annotated[float, Field(ge=SCALES[0], le=SCALES[1])] = 1.0
    """crop: factor of height and width that all images are resized by before windows are cut."""
    windows: Annotated[int, Field(ge=1, le=MAX_COUNT)] = 1
    """crop: number of windows of each image in an epoch."""
    sampling_weights: dict[ClassName, Fraction] | None = None
    """crop: probability, by class name, that a training window is centred on a random pixel of the class, if the image
    has any; the other windows are anywhere in the image."""
    data_dir: LenientPath | None = None
    """pets: the data_dir of TFDS. folder: the folder that contains images and masks. Like every path in a YAML file,
    it is relative to that file; on the command line, to the working directory."""
    download: bool = True
    """pets: download the data set if it is not in data_dir."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Fraction of the training images held out for validation, drawn by name: the same for every seed."""
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Fraction of the remaining training images to train on, drawn by name: the same for every seed."""
    cache_dir: LenientPath | None = None
    """Directory of the prepared arrays; default: $UNET_CACHE, else ~/.cache/unet-upsamplers."""
    colors: dict[ClassName, ClassColour] | None = None
    """Colour of each class in pictures by name, as "#RRGGBB" or [r, g, b]; other classes have a default colour."""
    folder: FolderConfig = Field(default_factory=FolderConfig)
    """Settings of the folder source."""
    shapes: ShapesConfig = Field(default_factory=ShapesConfig)
    """Settings of the shapes source."""

    @model_validator(mode="after")
    def _folder_needs_a_place(self):
        if self.source == "folder" and self.data_dir is None:
            raise ValueError("source folder needs data_dir, the folder that contains your images and masks")
        return self

    @model_validator(mode="after")
    def _windows_are_cut_from_whole_images(self):
        if self.sampling == "resize":
            defaults = {"scale": 1.0, "windows": 1, "sampling_weights": None}
            changed = [key for key, default in defaults.items() if getattr(self, key) != default]
            if changed:
                because = "needs data.sampling: crop; otherwise every image is resized to data.size"
                raise Mistakes(((key,), because) for key in changed)
        if self.sampling_weights and self.has_labels:
            raise Mistakes.of("sampling_weights", "needs one class for every pixel; leave it out with several labels")
        total = sum((self.sampling_weights or {}).values())
        if total > 1 + 1e-9:
            raise Mistakes.of("sampling_weights", f"are probabilities and must sum to 1 or less, received {total:g}")
        return self

    @model_validator(mode="after")
    def _pixels_can_be_normalized(self):
        if self.source != "folder" and not self.is_rgb:
            changed = [key for key, usual in zip(("channels", "dtype"), PICTURE) if getattr(self, key) != usual]
            raise Mistakes(((key,), f"{self.source} has 3 channels of uint8") for key in changed)
        if self.normalization is None and not self.is_rgb:
            raise Mistakes.of("normalization", "null is possible for 3 channels of uint8 only; give auto, or numbers")
        if isinstance(self.normalization, Normalization):
            for name in ("mean", "deviation"):
                if (count := len(getattr(self.normalization, name))) != self.channels:
                    raise Mistakes.of(
                        name, f"needs a number for each of the {self.channels} channels, received {count}"
                    ).below("normalization")
        return self

    @property
    def is_rgb(self) -> bool:
        """Whether the images are ordinary pictures: three channels of 8 bits."""
        return (self.channels, self.dtype) == PICTURE

    @property
    def moments(self) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
        """Mean and standard deviation of each channel, 0 and 1 if they are not known yet; ``None``: of the encoder."""
        if self.normalization is None:
            return None
        if isinstance(self.normalization, Normalization):
            return self.normalization.mean, self.normalization.deviation
        return (0.0,) * self.channels, (1.0,) * self.channels

    @property
    def known_classes(self) -> tuple[str, ...] | None:
        """Class names as far as the configuration decides them; ``None`` if the data do."""
        if self.source != "folder":
            return PETS_CLASSES
        return self.folder.labels or (tuple(self.folder.classes) if self.folder.classes else None)

    @property
    def has_labels(self) -> bool:
        """Whether a pixel may have several labels or none, instead of one class."""
        return self.source == "folder" and self.folder.labels is not None


class AugmentationConfig(Settings):
    """Random augmentation of images and masks, part of the compiled training step."""

    flip: Fraction = 0.5
    """Probability of a horizontal flip."""
    vertical_flip: Fraction = 0.0
    """Probability of a vertical flip, for images without an up and a down, such as aerial images."""
    rotate_90: Fraction = 0.0
    """Probability of a quarter turn, left or right; needs a square data.size."""
    scale: Range = (0.5, 1.0)
    """Range of the area of a crop as a fraction of the image; [1, 1] crops nothing. Above 1 the image becomes smaller,
    with a black border that is ignored."""
    ratio: Range = (0.75, 1.3333)
    """Range of the factor between the aspect ratios (width/height) of crop and image."""
    translation: Fraction = 0.0
    """Largest shift as a fraction of height and width; what is beyond the border is ignored."""
    rotation: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest angle of a rotation in degrees, to either side; what is beyond the border is ignored."""
    elastic: Annotated[float, Field(ge=0, le=0.25)] = 0.0
    """Largest displacement by a smooth deformation, as a fraction of height and width."""
    brightness: Fraction = 0.1
    """Largest brightness shift as a fraction of the value range."""
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """The contrast factor is drawn from [1 - c, 1 + c]."""
    saturation: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """The saturation factor is drawn from [1 - s, 1 + s]. Like hue and grayscale, it changes nothing unless images have
    3 channels of uint8."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest hue rotation as a fraction of the colour circle."""
    gamma: Annotated[float, Field(ge=0, le=10)] = 0.0
    """The exponent of a gamma correction is drawn from [1/(1 + g), 1 + g]."""
    grayscale: Fraction = 0.0
    """Probability that an image loses its colours."""
    blur: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Largest standard deviation of a Gaussian blur, in pixels of data.size."""
    noise: Fraction = 0.0
    """Largest standard deviation of noise as a fraction of the value range."""

    @model_validator(mode="after")
    def _ranges(self):
        for name, (low, high), largest in (("scale", self.scale, MAX_SCALE), ("ratio", self.ratio, 1 / SMALLEST)):
            if not SMALLEST <= low <= high <= largest:
                bounds = f"{SMALLEST:g} ≤ low ≤ high ≤ {largest:g}"
                raise Mistakes.of(name, f"must be [low, high] with {bounds}, received {shown((low, high))}")
        return self


class SharedOptions(Settings):
    """Options that every upsampler has."""

    activation: AnyActivation | None = None
    """Activation of the upsampled map; null: none."""


class UpsamplerConfig(Settings):
    """Upsampler of the decoder: its name and its options."""

    model_config = ConfigDict(extra="allow")

    name: str = "conv_transpose"
    """Name of the upsampler."""

    @property
    def options(self) -> dict[str, Any]:
        """Options as given, which are arguments of the layer."""
        return dict(self.__pydantic_extra__ or {})

    @property
    def settings(self) -> Options:
        """Options with their defaults, without those that all upsamplers share."""
        own = {key: value for key, value in self.options.items() if key not in SharedOptions.model_fields}
        return UPSAMPLERS[self.name].options.checked(**own)

    @model_validator(mode="after")
    def _suits_a_decoder(self):
        if self.name not in UPSAMPLERS:
            choices = list(UPSAMPLERS)
            given = shortened(repr(self.name))
            raise ValueError(f"{given} is not one of {', '.join(choices)}{nearest(self.name, choices)}")
        known = [*UPSAMPLERS[self.name].options.model_fields, *SharedOptions.model_fields]
        if unknown := [key for key in self.options if key not in known]:
            accepted = f"options: {', '.join(known)}"
            raise Mistakes(
                ((key,), f"not an option of {self.name}{nearest(key, known)} ({accepted})") for key in unknown
            )
        SharedOptions.checked(**{key: self.options[key] for key in SharedOptions.model_fields if key in self.options})
        self.settings.check_doubles()
        return self


class DecoderConfig(Settings):
    """Decoder of the network."""

    width: Channels | None = None
    """Channels of its stage at full resolution; each deeper stage has twice as many; null: those of the model."""
    widths: Annotated[tuple[Channels, ...], BeforeValidator(_as_tuple)] | None = None
    """Channels of every stage, as many as the depth, beginning at full resolution; overrides width."""
    attention: Literal["none", "gate", "scse"] = "none"
    """gate: attention gates on the skips (Oktay et al. 2018). scse: squeeze and excitation (Roy et al. 2018)."""
    deep_supervision: Weight = 0.0
    """Weight of the losses of its coarser stages, in training only (Lee et al. 2015); 0: none."""


class ModelConfig(Settings):
    """Architecture of the network."""

    encoder: Literal[tuple(ENCODERS)] = "plain"  # type: ignore[valid-type]
    """Encoder: plain (trained from scratch), or a network that was trained on ImageNet."""
    weights: Annotated[Text, BeforeValidator(_as_weights)] = Field(default_factory=_default_weights)
    """Initial weights of the encoder: imagenet, the path of a file, or none; default: imagenet if there are any."""
    width: Channels = 64
    """Channels of the first stage; each deeper stage has twice as many. A pretrained encoder has its own."""
    widths: Annotated[tuple[Channels, ...], BeforeValidator(_as_tuple)] | None = None
    """Channels of every stage, depth + 1 numbers ending with the bottleneck; overrides width."""
    depth: Annotated[int, Field(ge=1, le=8)] = Field(default_factory=_default_depth)
    """Number of times the resolution is halved; default: 4, or as often as a pretrained encoder does."""
    decoder: DecoderConfig = Field(default_factory=DecoderConfig)
    """Decoder of the network."""
    head: Literal[HEADS] = "softmax"  # type: ignore[valid-type]
    """Last layer. softmax: a logit for each class. sigmoid: a single logit for two classes, that of the second. labels:
    a logit for each of several labels per pixel; the default, and the only choice, for such data."""
    block: Literal["plain", "residual"] = "plain"
    """Two 3×3 convolutions per stage, without or with a shortcut around them."""
    normalization: Literal["batch", "group", "none"] = "batch"
    """Normalization after each convolution."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout rate between the two convolutions of each stage."""
    activation: Activation = "relu"
    """Activation after each convolution."""
    kernel_initializer: Literal["he_normal", "he_uniform", "glorot_normal", "glorot_uniform", "orthogonal"] = (
        "he_normal"
    )
    """Initializer of every kernel."""
    upsampler: Annotated[
        UpsamplerConfig,
        BeforeValidator(_as_upsampler),
        Expected("the name of an upsampler, or a mapping {name: ..., option: ...}"),
    ] = Field(default_factory=UpsamplerConfig)
    """Upsampler of the decoder: its name, or a mapping {name: ..., option: ...}."""

    @property
    def weights_file(self) -> Path | None:
        """File of the encoder's initial weights, if they are in a file of one's own."""
        return None if self.weights in ("imagenet", "none") else Path(self.weights)

    @property
    def decoder_widths(self) -> tuple[int, ...] | None:
        """Channels of every decoder stage as configured; ``None`` if the encoder's stages decide them."""
        if self.decoder.widths is not None or self.decoder.width is None:
            return self.decoder.widths
        return doubled(self.decoder.width, self.depth - 1)

    @property
    def plan(self) -> Plan:
        """Channels of every stage of encoder and decoder."""
        return Plan.of(self.encoder, self.depth, self.width, self.widths, self.decoder_widths, self.upsampler.name)

    @property
    def parameters(self) -> int:
        """Number of weights of the 3×3 convolutions of all stages and of the upsamplers, nearly all of a network."""
        plan = self.plan
        own = () if ENCODERS[self.encoder].pretrained else plan.encoder
        encoder = sum(9 * (inputs + c) * c for inputs, c in zip((3, *own), own))
        decoder = sum(
            self.upsampler.settings.weights(below, c) + 9 * (skip + c + c) * c
            for below, skip, c in zip((*plan.decoder[1:], plan.encoder[-1]), plan.encoder, plan.decoder)
        )
        return encoder + decoder

    def check_classes(self, classes: int) -> None:
        """Check that the head suits the number of classes.

        Raises:
            Mistakes: It does not.
        """
        if self.head == "sigmoid" and classes != 2:
            raise Mistakes.of("head", f"sigmoid needs exactly two classes, and there are {classes}; choose softmax")

    @model_validator(mode="after")
    def _can_be_built(self):
        if self.weights != "none" and not ENCODERS[self.encoder].pretrained:
            able = ", ".join(name for name, entry in ENCODERS.items() if entry.pretrained)
            raise Mistakes.of(
                "weights", f"{self.encoder} is trained from scratch; encoders with pretrained weights: {able}"
            )
        if self.decoder.deep_supervision and self.depth == 1:
            raise Mistakes.of(
                "deep_supervision", "needs a decoder with coarser stages, so a depth of at least 2; received 1"
            ).below("decoder")
        for channels in self.plan.decoder:
            try:
                self.upsampler.settings.check_channels(channels)
            except Mistakes as mistakes:
                raise mistakes.below("upsampler") from None
        if self.parameters > MAX_WEIGHTS:
            raise Mistakes.of(
                "width" if self.widths is None else "widths",
                f"{shown(self.plan.encoder)} channels and the upsampler {self.upsampler.name} give a network of "
                f"{self.parameters:,} weights; at most {MAX_WEIGHTS:,} are accepted",
            )
        return self


class LossConfig(Settings):
    """Weighted sum of losses over the pixels that are not ignored; a weight of 0 omits a term."""

    cross_entropy: Weight = 1.0
    """Weight of the cross-entropy."""
    focal: Weight = 0.0
    """Weight of the focal loss."""
    dice: Weight = 0.0
    """Weight of the soft Dice loss."""
    tversky: Weight = 0.0
    """Weight of the Tversky loss."""
    lovasz: Weight = 0.0
    """Weight of the Lovász-softmax loss; of several labels, each label's own Lovász loss of its sigmoid."""
    focal_gamma: Weight = 2.0
    """Focusing exponent; with 0 the focal loss is the cross-entropy."""
    tversky_alpha: Fraction = 0.3
    """Weight of false positives in the Tversky loss."""
    tversky_beta: Fraction = 0.7
    """Weight of false negatives; with alpha = beta = 0.5 the Tversky loss is the Dice loss."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Fraction of the target probability spread evenly over all classes, or over set and not set for each label, in the
    cross-entropy."""
    hardest: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Fraction of the pixels of a batch, those with the largest cross-entropy, that count in it (online hard example
    mining, Shrivastava et al. 2016); 1: all."""
    class_weights: Annotated[
        Annotated[Annotated[dict[ClassName, Weight], OF_MAPPING] | Annotated[Literal["auto"], OF_OTHER], BY_KIND]
        | None,
        Expected("a mapping from class names to weights, or auto"),
    ] = None
    """Weight of each class by name, 1 for classes that are not listed; or auto: 1 / ln(1.02 + share of the training
    pixels), as in ENet (Paszke et al. 2016)."""

    @model_validator(mode="after")
    def _some_term(self):
        if not any((self.cross_entropy, self.focal, self.dice, self.tversky, self.lovasz)):
            raise ValueError("every weight is 0; give at least one of cross_entropy, focal, dice, tversky, lovasz")
        if self.tversky and not self.tversky_alpha + self.tversky_beta:
            raise ValueError("tversky_alpha and tversky_beta are both 0; at least one must be positive")
        return self


class TrainingConfig(Settings):
    """Optimization of the network."""

    epochs: Count = 100
    """Number of passes over the training images."""
    batch_size: Annotated[
        Annotated[Annotated[Literal["auto"], OF_TEXT] | Annotated[Count, OF_OTHER], BY_TEXT],
        Expected("a whole number, or auto"),
    ] = 32
    """Images per step; an incomplete last batch is dropped. auto: the largest power of two that fits in memory, found
    by trying when the run starts, and leaves at least ten updates in an epoch; config.yaml of the run has the number.
    The learning rate is not changed with it."""
    accumulate: Count = 1
    """Number of batches whose gradients are averaged for one update of the weights, as of one larger batch; an
    incomplete last group is dropped. Batch statistics are still those of each batch."""
    remat: bool = False
    """Whether the gradient computes the activations within each stage again instead of keeping them: less memory, but
    most of the forward pass is computed twice. Results are the same but for rounding."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """AdamW, Adam, or SGD with Nesterov momentum."""
    learning_rate: Annotated[float, Field(gt=0, le=LARGEST)] = 1e-3
    """Peak learning rate."""
    encoder_learning_rate: Annotated[float, Field(gt=0, le=LARGEST)] = 1.0
    """Factor of the encoder's learning rate; less than 1, such as 0.1, changes pretrained weights less."""
    freeze_epochs: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 0
    """Number of epochs, at the beginning, in which the encoder keeps its weights and batch statistics."""
    weight_decay: Weight = 1e-2
    """Decoupled weight decay, for AdamW, of every kernel, of depthwise convolutions and encoder too; biases and
    normalization do not decay."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """Learning-rate schedule after warm-up: cosine decay to 0, or constant."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Fraction of the training during which the learning rate rises linearly from 0 to its peak."""
    clip_norm: Annotated[float, Field(gt=0, le=LARGEST)] | None = 1.0
    """Largest global norm of the gradient; null: no clipping."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Momentum of an exponential moving average of the weights, used for validation and saving; null: none."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Dtype policy of the network; weights and losses are float32."""
    jit: bool = True
    """Compile the step with XLA, on TensorFlow and JAX (PyTorch runs eagerly); faster on a GPU, slower with TensorFlow
    on a CPU."""
    devices: Annotated[
        Annotated[Annotated[Literal["all"], OF_TEXT] | Annotated[Count, OF_OTHER], BY_TEXT],
        Expected("a whole number, or all"),
    ] = 1
    """Devices that share every batch equally, with JAX; all: as many as this machine has, or all machines that train
    together. The result is that of one device, but for rounding."""
    early_stopping: Count | None = None
    """Stop after this many epochs without a better validation mean IoU; null: never."""
    checkpoint_seconds: Weight = 15.0
    """Minimum seconds between checkpoints, which are written at the end of an epoch; 0: after every epoch."""
    pictures_every: Annotated[int, Field(ge=0, le=MAX_COUNT)] = 5
    """Epochs between images of validation predictions in TensorBoard; 0: none."""

    @property
    def images_per_step(self) -> int:
        """The batch size as a number.

        Raises:
            ValueError: It is ``auto`` and has not been found yet.
        """
        if self.batch_size == "auto":
            raise ValueError("training.batch_size is auto; a run has a number once its training has started")
        return self.batch_size


class Config(Settings):
    """Complete configuration of a run."""

    name: Name = "run"
    """Name of the run and of its directory under runs/; default: the name of the YAML file."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Seed of the initial weights, the order of the data in every epoch, and the augmentation."""
    init_from: LenientPath | None = None
    """Run or .keras file whose network gives the initial weights of every layer with the same name and shapes; read
    when training starts, not when it resumes. It takes precedence over model.weights."""
    tracking: Literal["none", "mlflow", "wandb"] = "none"
    """Service that follows the run, in addition to TensorBoard: MLflow or Weights & Biases."""
    data: DataConfig = Field(default_factory=DataConfig)
    """Source of images and masks."""
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig)
    """Random augmentation of the training images."""
    model: ModelConfig = Field(default_factory=ModelConfig)
    """Architecture of the network."""
    loss: LossConfig = Field(default_factory=LossConfig)
    """Loss to minimize."""
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    """Optimization of the network."""

    @model_validator(mode="after")
    def _only_squares_turn(self):
        height, width = self.data.size
        if self.augmentation.rotate_90 and height != width:
            raise Mistakes.of("rotate_90", f"needs a square data.size, received {height}×{width}").below("augmentation")
        return self

    @model_validator(mode="after")
    def _head_suits_the_classes(self):
        if self.data.has_labels and "head" not in self.model.model_fields_set:
            self.__dict__["model"] = self.model.model_copy(update={"head": "labels"})
        if self.data.has_labels != (self.model.head == "labels"):
            told = (
                f"{self.model.head} gives every pixel one class; for several labels leave it out, or choose labels"
                if self.data.has_labels
                else "labels needs a folder of masks for each label, as data.folder.masks='{roof: masks/roof, ...}'"
            )
            raise Mistakes.of("head", told).below("model")
        if self.data.known_classes is not None:
            try:
                self.model.check_classes(len(self.data.known_classes))
            except Mistakes as mistakes:
                raise mistakes.below("model") from None
        return self

    @model_validator(mode="after")
    def _named_classes_exist(self):
        classes, weights = self.data.known_classes or (), self.loss.class_weights
        named = {
            ("data", "colors"): self.data.colors,
            ("data", "sampling_weights"): self.data.sampling_weights,
            ("loss", "class_weights"): weights,
        }
        unknown = [
            (*keys, name)
            for keys, values in named.items()
            for name in (values if isinstance(values, dict) else ())
            if classes and name not in classes
        ]
        if unknown:
            accepted = f"(classes: {shortened(', '.join(classes))})"
            raise Mistakes(
                (keys, f"there is no class {keys[-1]!r}{nearest(keys[-1], classes)} {accepted}") for keys in unknown
            )
        return self

    def with_data(self, **changes) -> "Config":
        """Copy the configuration with other values in its data section; they are not checked."""
        return self.model_copy(update={"data": self.data.model_copy(update=changes)})

    def with_model(self, **changes) -> "Config":
        """Copy the configuration with other values in its model section; they are not checked."""
        return self.model_copy(update={"model": self.model.model_copy(update=changes)})

    def with_training(self, **changes) -> "Config":
        """Copy the configuration with other values in its training section; they are not checked."""
        return self.model_copy(update={"training": self.training.model_copy(update=changes)})

    def with_class_weights(self, weights: dict[str, float]) -> "Config":
        """Copy the configuration with other class weights in its loss section; they are not checked."""
        return self.model_copy(update={"loss": self.loss.model_copy(update={"class_weights": weights})})

    def without_paths(self) -> dict[str, Any]:
        """The configuration as JSON values for files that are handed on: paths stay private."""
        config = self if self.model.weights_file is None else self.with_model(weights="file")
        return config.model_dump(mode="json", exclude={"data": {"data_dir", "cache_dir"}})

    def to_yaml(self) -> str:
        """The resolved configuration, every key written out."""
        return document.dump(self.model_dump(mode="json"))
