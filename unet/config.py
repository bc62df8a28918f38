"""The whole configuration as typed classes: load YAML, apply overrides, validate, describe for editors.

A YAML file holds only what differs from the defaults below, or from another file it names as ``base:``. Every
mistake ends in one :class:`~unet.errors.InputError` that lists each wrong key with the file and line it came
from, what is allowed, and the nearest valid spelling.

``python -m unet.config`` prints the JSON schema that editors use (``configs/schema.json``).
"""

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from unet.errors import InputError, nearest

# === Types that a YAML value may be written as ===


def _as_pair(value):
    """``128`` and ``[96, 160]`` both name a size; lists become tuples."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value, value)
    return tuple(value) if isinstance(value, list) else value


def _as_tuple(value):
    return tuple(value) if isinstance(value, list) else value


def _as_classes(value):
    """Class names, or names with the grey value or colour that stands for each in the masks."""
    if value is None:
        return None
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        entries = {name: index for index, name in enumerate(value)}
        if len(entries) < len(value):
            raise ValueError("the same class name stands twice")
    elif isinstance(value, dict) and all(isinstance(name, str) for name in value):
        entries = {name: _as_tuple(mark) for name, mark in value.items()}
        if len({str(mark) for mark in entries.values()}) < len(entries):
            raise ValueError("two classes have the same value in the masks")
    else:
        raise ValueError("must be a list of names, or a mapping from names to grey values or [r, g, b] colours")
    for name, mark in entries.items():
        channels = mark if isinstance(mark, tuple) else (mark,)
        if len(channels) not in (1, 3) or not all(type(c) is int and 0 <= c <= 255 for c in channels):
            raise ValueError(f"{name}: {mark!r} is neither a grey value 0..255 nor a colour [r, g, b] of such values")
    if not 2 <= len(entries) <= 255:
        raise ValueError(f"must name 2 to 255 classes, received {len(entries)}")
    if len({isinstance(mark, tuple) for mark in entries.values()}) > 1:
        raise ValueError("grey values and colours cannot be mixed")
    return entries


def _as_upsampler(value):
    """``bilinear`` and ``{name: bilinear, align_corners: true}`` both name an upsampler."""
    if isinstance(value, str):
        return {"name": value}
    return value


Size = Annotated[tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]], BeforeValidator(_as_pair)]
Range = Annotated[tuple[float, float], BeforeValidator(_as_tuple)]
LenientPath = Annotated[Path, Field(strict=False)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Mark = int | tuple[int, int, int]


class Section(BaseModel):
    """A part of the configuration: unknown keys and wrong types are errors, values do not change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


class FolderConfig(Section):
    """Your own images and masks (``data.source: folder``)."""

    images: str = "images"
    """Folder of the images, inside data_dir; searched with its subfolders."""
    masks: str = "masks"
    """Folder of the masks, inside data_dir; a mask has the name of its image and the ending .png, .jpg, ..."""
    classes: Annotated[dict[str, Mark] | None, BeforeValidator(_as_classes)] = None
    """Names in the order of their ids, or a mapping from names to the grey value or [r, g, b] of each in the masks."""
    ignore: Annotated[Mark | None, BeforeValidator(_as_tuple)] = 255
    """Grey value (colour, where classes have colours) of pixels that count in neither training nor evaluation."""
    train: str | None = None
    """Text file, inside data_dir, that lists the training images, one a line. Then test must be given too."""
    validation: str | None = None
    """The same for validation; without it validation images are drawn from the training images."""
    test: str | None = None
    """The same for test; without split files a test set of test_fraction is drawn by name."""
    test_fraction: Annotated[float, Field(ge=0, le=0.9)] = 0.2
    """Share of the images drawn for test where there are no split files."""

    @model_validator(mode="after")
    def _splits_go_together(self):
        if (self.train is None) != (self.test is None):
            raise ValueError("give both train and test split files, or neither")
        if self.validation is not None and self.train is None:
            raise ValueError("a validation split file needs train and test split files beside it")
        return self


class ShapesConfig(Section):
    """Drawn scenes (``data.source: shapes``)."""

    train: Annotated[int, Field(ge=2)] = 480
    """Number of training scenes, validation included."""
    test: Annotated[int, Field(ge=1)] = 120
    """Number of test scenes."""
    seed: Annotated[int, Field(ge=0)] = 0
    """Decides every scene."""


class DataConfig(Section):
    """Where images and masks come from and the size they are brought to."""

    source: Literal["pets", "folder", "shapes"] = "pets"
    """pets: Oxford-IIIT Pets through TFDS. folder: your own files. shapes: scenes drawn for demos and tests."""
    size: Size = (128, 128)
    """Height and width in pixels that the network sees; one number for a square."""
    data_dir: LenientPath | None = None
    """pets: the TFDS data_dir; folder: the folder that holds images and masks."""
    download: bool = True
    """pets: fetch the data set when it is not in data_dir."""
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the training images held out for validation, drawn by name: the same for every seed."""
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the remaining training images that is used, drawn by name: the same for every seed."""
    cache_dir: LenientPath | None = None
    """Where prepared arrays are kept; default: $UNET_CACHE, else ~/.cache/unet-upsamplers."""
    folder: FolderConfig = Field(default_factory=FolderConfig)
    """Settings of the folder source."""
    shapes: ShapesConfig = Field(default_factory=ShapesConfig)
    """Settings of the shapes source."""

    @model_validator(mode="after")
    def _folder_needs_a_place(self):
        if self.source == "folder" and self.data_dir is None:
            raise ValueError("source folder needs data_dir, the folder that holds your images and masks")
        return self


class AugmentationConfig(Section):
    """Random changes to image and mask together, inside the compiled training step."""

    flip: Fraction = 0.5
    """Probability of a left-right flip."""
    scale: Range = (0.5, 1.0)
    """Range of the cropped share of the image area; [1, 1] crops nothing."""
    ratio: Range = (0.75, 1.3333)
    """Range by which a crop's width/height differs from the image's own."""
    brightness: Fraction = 0.1
    """Largest brightness shift, as a share of the value range."""
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """c draws the contrast factor from [1 - c, 1 + c]."""
    saturation: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """s draws the saturation factor from [1 - s, 1 + s]."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest turn of the hue, as a share of the colour circle."""

    @model_validator(mode="after")
    def _ranges(self):
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be [low, high] with 0 < low <= high <= 1, received {list(self.scale)}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be [low, high] with 0 < low <= high, received {list(self.ratio)}")
        return self


class UpsamplerConfig(Section):
    """The decoder's upsampler: its registry name and its options."""

    model_config = ConfigDict(extra="allow")

    name: str = "conv_transpose"
    """A name from the registry unet.upsamplers.UPSAMPLERS."""

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's arguments beside the name."""
        return dict(self.__pydantic_extra__ or {})

    @model_validator(mode="after")
    def _exists(self):
        from unet import upsamplers

        if self.name not in upsamplers.UPSAMPLERS:
            choices = list(upsamplers.UPSAMPLERS)
            raise ValueError(f"{self.name!r} is not one of {', '.join(choices)}{nearest(self.name, choices)}")
        own = {key: option.default for key, option in upsamplers.options(self.name).items()} | {"activation": None}
        for key, value in self.options.items():
            if key not in own:
                raise ValueError(f"{self.name} has no option {key!r}; it has {', '.join(own)}{nearest(key, own)}")
            if own[key] is not None and type(value) is not type(own[key]):
                expected = {bool: "true or false", int: "a whole number", float: "a number"}
                kind = expected.get(type(own[key]), type(own[key]).__name__)
                raise ValueError(f"{key} of {self.name} must be {kind}, received {value!r}")
        try:
            upsamplers.build(self.name, 8, **self.options).check_doubles()
        except (ValueError, TypeError) as error:
            raise ValueError(str(error).splitlines()[0]) from None
        return self


class ModelConfig(Section):
    """The network."""

    width: Annotated[int, Field(ge=1)] = 64
    """Channels of the first stage; each deeper stage doubles them."""
    widths: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_as_tuple)] | None = None
    """Channels of every stage, the bottleneck last, instead of the doubling: depth + 1 numbers."""
    depth: Annotated[int, Field(ge=1, le=8)] = 4
    """How often the resolution is halved."""
    block: Literal["plain", "residual"] = "plain"
    """Two 3×3 convolutions a stage, without or with a shortcut around them."""
    normalization: Literal["batch", "group", "none"] = "batch"
    """After each convolution."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Rate between the two convolutions of each block."""
    activation: Literal["relu", "leaky_relu", "elu", "selu", "gelu", "silu", "mish", "tanh"] = "relu"
    """After each convolution."""
    kernel_initializer: Literal["he_normal", "he_uniform", "glorot_normal", "glorot_uniform", "orthogonal"] = (
        "he_normal"
    )
    """Of every kernel."""
    upsampler: Annotated[UpsamplerConfig, BeforeValidator(_as_upsampler)] = Field(default_factory=UpsamplerConfig)
    """A registry name, or a mapping {name: ..., option: ...}."""

    @model_validator(mode="after")
    def _one_width_a_stage(self):
        if self.widths is not None and len(self.widths) != self.depth + 1:
            raise ValueError(
                f"widths: a network of depth {self.depth} has {self.depth + 1} stages, received {list(self.widths)}"
            )
        return self


class LossConfig(Section):
    """A weighted sum of losses; a weight of 0 leaves a term out. Ignored pixels count in none of them."""

    cross_entropy: Weight = 1.0
    """Weight of the cross-entropy."""
    focal: Weight = 0.0
    """Weight of the focal loss."""
    dice: Weight = 0.0
    """Weight of the soft Dice loss."""
    tversky: Weight = 0.0
    """Weight of the Tversky loss."""
    lovasz: Weight = 0.0
    """Weight of the Lovász-softmax loss."""
    focal_gamma: Weight = 2.0
    """Focusing exponent: 0 makes the focal loss the cross-entropy."""
    tversky_alpha: Fraction = 0.3
    """Weight of false positives."""
    tversky_beta: Fraction = 0.7
    """Weight of false negatives; alpha = beta = 0.5 makes the Tversky loss the Dice loss."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the target probability spread evenly over all classes in the cross-entropy."""
    class_weights: dict[str, Weight] | None = None
    """Weight of each class by name; classes left out have weight 1."""

    @model_validator(mode="after")
    def _some_term(self):
        if not any((self.cross_entropy, self.focal, self.dice, self.tversky, self.lovasz)):
            raise ValueError("every weight is 0; give at least one of cross_entropy, focal, dice, tversky, lovasz")
        if self.tversky and not self.tversky_alpha + self.tversky_beta:
            raise ValueError("tversky_alpha and tversky_beta are both 0; at least one must be positive")
        return self


class TrainingConfig(Section):
    """How the network is trained."""

    epochs: Annotated[int, Field(ge=1)] = 100
    """Passes over the training images."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Images a step; what does not fill a batch is left out of that epoch."""
    optimizer: Literal["adamw", "adam", "sgd"] = "adamw"
    """AdamW, Adam, or SGD with Nesterov momentum."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Peak learning rate."""
    weight_decay: Weight = 1e-2
    """AdamW: decoupled weight decay of the kernels (not of biases and normalisation)."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Of SGD."""
    schedule: Literal["cosine", "constant"] = "cosine"
    """How the learning rate goes on after the warm-up: down to 0 along a cosine, or not at all."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.05
    """Share of the training over which the learning rate rises from 0 to its peak."""
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    """Largest global norm of the gradient; null leaves it as it is."""
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Momentum of a moving average of the weights, which is then what is validated and kept; null: none."""
    precision: Literal["float32", "mixed_bfloat16", "mixed_float16"] = "float32"
    """Arithmetic of the network; weights and losses stay float32."""
    jit: bool = True
    """Compile the step with XLA, on TensorFlow and JAX (PyTorch runs eagerly). Faster on a GPU; on a CPU TensorFlow is
    faster without."""
    early_stopping: Annotated[int, Field(ge=1)] | None = None
    """Stop after this many epochs without a better validation mean IoU; null: never."""
    checkpoint_seconds: Weight = 15.0
    """Least time between checkpoints, which are written at the end of an epoch; 0: after every epoch."""
    pictures_every: Annotated[int, Field(ge=0)] = 5
    """Epochs between pictures of validation predictions in TensorBoard; 0: none."""


class Config(Section):
    """Everything that decides a run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")] = "run"
    """Name of the run and of its directory under runs/; default: the name of the YAML file."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Decides initial weights, the data order of every epoch, and augmentation."""
    data: DataConfig = Field(default_factory=DataConfig)
    """Where images and masks come from."""
    augmentation: AugmentationConfig = Field(default_factory=AugmentationConfig)
    """Random changes in training."""
    model: ModelConfig = Field(default_factory=ModelConfig)
    """The network."""
    loss: LossConfig = Field(default_factory=LossConfig)
    """What is minimised."""
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    """How it is minimised."""

    def to_yaml(self) -> str:
        """The resolved configuration, every key written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


# === Loading ===


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = (), origins: list[str] | None = None) -> Config:
    """Read a YAML file and what it builds on, apply overrides, validate.

    Args:
        path: The YAML file.
        overrides: ``"key.sub=value"`` each; the value is read as YAML.
        origins: Where each override was written, for messages; default: the command line.

    Raises:
        InputError: With every mistake found, each with its place.
    """
    path = Path(path)
    values, places = _read_chain(path)
    if "name" not in values:
        values["name"] = re.sub(r"[^A-Za-z0-9._-]", "-", path.stem)
    for override, origin in zip(overrides, origins or ["command line"] * len(overrides), strict=True):
        _apply_override(values, places, override, origin)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise InputError(_explain(error, path, places)) from None


DATA_PLACES = ("data.data_dir", "data.cache_dir", "data.download", "data.source")


def with_data_at(config: Config, overrides: list[str] | tuple[str, ...]) -> Config:
    """The same configuration with its data in another place.

    Args:
        config: Of a trained run.
        overrides: ``"key=value"`` for the keys in ``DATA_PLACES``.

    Raises:
        InputError: Another key, or a wrong value.
    """
    values = config.model_dump(mode="json")
    places: Places = {}
    for override in overrides:
        key, _ = parse_override(override)
        if key not in DATA_PLACES:
            hint = nearest(key, DATA_PLACES)
            raise InputError(
                f"command line: {key}: a trained network's data can only be found elsewhere, by "
                f"{', '.join(DATA_PLACES)}{hint}"
            )
        _apply_override(values, places, override, "command line")
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise InputError(_explain(error, Path("command line"), places)) from None


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, except that 1e-3 is a number, as everyone means it."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)

Places = dict[tuple[str, ...], str]


def _read_chain(path: Path, above: tuple[Path, ...] = ()) -> tuple[dict, Places]:
    """Values and places of a file, laid over those of its base."""
    if path.resolve() in above:
        chain = " -> ".join(p.name for p in (*above, path))
        raise InputError(f"{path}: base files go round in a circle: {chain}")
    values, places = read(path)
    if "base" not in values:
        return values, places
    base = values.pop("base")
    where = places.pop(("base",))
    if not isinstance(base, str):
        raise InputError(f"{where}: base: must be the path of another YAML file, received {base!r}")
    base_path = path.parent / base
    if not base_path.is_file():
        others = sorted(p.name for p in base_path.parent.glob("*.yaml")) if base_path.parent.is_dir() else []
        raise InputError(f"{where}: base: there is no file {base_path}{nearest(base_path.name, others)}")
    base_values, base_places = _read_chain(base_path, (*above, path.resolve()))
    base_values.pop("name", None)
    return _merge(base_values, values, Config), base_places | places


def read(path: Path) -> tuple[dict, Places]:
    """Values of one YAML file, and the file and line of every key.

    Raises:
        InputError: There is no such file, or it is not a YAML mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        others = sorted(str(p) for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        raise InputError(f"{path}: there is no such file{nearest(str(path), others)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as text: {error}") from None
    loader = _Loader(text)
    places: Places = {}

    def construct(node, key):
        if not isinstance(node, yaml.MappingNode):
            return loader.construct_object(node, deep=True)
        values = {}
        for key_node, value_node in node.value:
            name = loader.construct_object(key_node)
            here = (*key, str(name))
            place = f"{path}:{key_node.start_mark.line + 1}"
            if name in values:
                raise InputError(f"{place}: {'.'.join(here)}: the key stands twice, first at {places[here]}")
            places[here] = place
            values[name] = construct(value_node, here)
        return values

    try:
        root = loader.get_single_node()
        values = {} if root is None else construct(root, ())
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InputError(f"{path}{line}: not valid YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: not valid YAML: {error}") from None
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise InputError(f"{path}: must hold keys and values such as 'seed: 0', received {type(values).__name__}")
    return values, places


def _merge(base: dict, top: dict, section: type[BaseModel]) -> dict:
    """Lay ``top`` over ``base``: sections key by key, everything else whole."""
    merged = dict(base)
    for key, value in top.items():
        subsection = _subsection(section, key)
        if subsection and isinstance(value, dict) and isinstance(base.get(key), dict):
            value = _merge(base[key], value, subsection)
        merged[key] = value
    return merged


def _subsection(section: type[BaseModel], key: str) -> type[BaseModel] | None:
    field = section.model_fields.get(key)
    kind = field.annotation if field else None
    if isinstance(kind, type) and issubclass(kind, Section) and kind is not UpsamplerConfig:
        return kind
    return None


def parse_override(override: str, origin: str = "command line") -> tuple[str, Any]:
    """Key and value of ``"key.sub=value"``.

    Raises:
        InputError: It is not written so.
    """
    key, equals, text = override.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise InputError(f"{origin}: {override!r}: an override is written key.sub=value, as training.epochs=8")
    try:
        return key.strip(), yaml.load(text, _Loader)
    except yaml.YAMLError:
        raise InputError(f"{origin}: {key}: {text!r} is not a YAML value") from None


def _apply_override(values: dict, places: Places, override: str, origin: str) -> None:
    key, value = parse_override(override, origin)
    names = tuple(key.split("."))
    target = values
    for depth, name in enumerate(names[:-1]):
        inner = target.get(name)
        if names[depth] == "upsampler" and isinstance(inner, str):
            inner = {"name": inner}
        target[name] = dict(inner) if isinstance(inner, dict) else {}
        target = target[name]
    section: type[BaseModel] = Config
    for name in names[:-1]:
        section = _subsection(section, name) or Section
    subsection = _subsection(section, names[-1])
    if subsection and isinstance(value, dict) and isinstance(target.get(names[-1]), dict):
        value = _merge(target[names[-1]], value, subsection)
    target[names[-1]] = value
    for place in [place for place in places if place[: len(names)] == names]:
        del places[place]
    places[names] = origin


# === Explaining mistakes ===


def _explain(error: ValidationError, path: Path, places: Places) -> str:
    """One line for each mistake: place, key, what is wrong, what is allowed, the nearest spelling."""
    lines = []
    for mistake in error.errors():
        location = [str(part) for part in mistake["loc"]]
        keys = _keys(location)
        lines.append(f"{_place(keys, places) or path}: {'.'.join(keys) or 'config'}: {_complaint(mistake, keys)}")
    return "\n".join(dict.fromkeys(lines))


def _place(keys: tuple[str, ...], places: Places) -> str | None:
    """Where a key was written: itself, else something in it, else what it is in."""
    if keys in places:
        return places[keys]
    inside = [place for key, place in places.items() if keys and key[: len(keys)] == keys]
    around = [places[keys[:n]] for n in range(len(keys) - 1, 0, -1) if keys[:n] in places]
    return next(iter([*inside, *around]), None)


def _keys(location: list[str]) -> tuple[str, ...]:
    """The part of pydantic's location that names keys of the YAML, without its names of union members."""
    keys: list[str] = []
    section: type[BaseModel] | None = Config
    for part in location:
        keys.append(part)
        field = section.model_fields.get(part) if section else None
        kind = field.annotation if field else None
        section = kind if isinstance(kind, type) and issubclass(kind, Section) else None
        if section is None:
            break
    return tuple(keys)


def _complaint(mistake, keys: tuple[str, ...]) -> str:
    kind, given, context = mistake["type"], mistake["input"], mistake.get("ctx", {})
    shown = json.dumps(given, ensure_ascii=False, default=str)
    if kind == "extra_forbidden":
        known = list(_section_at(keys[:-1]).model_fields)
        return f"unknown key{nearest(keys[-1], known)} (known here: {', '.join(known)})"
    if kind == "literal_error":
        choices = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        return f"{shown} is not one of {', '.join(choices)}{nearest(given, choices)}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "string_pattern_mismatch":
        return f"{shown} may hold letters, digits, '.', '_' and '-' only, and starts with a letter or digit"
    bounds = {"greater_than": ">", "greater_than_equal": "≥", "less_than": "<", "less_than_equal": "≤"}
    if kind in bounds:
        limit = next(value for key, value in context.items() if key in ("gt", "ge", "lt", "le"))
        return f"must be {bounds[kind]} {limit:g}, received {shown}"
    expected = {
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "float_type": "a number",
        "finite_number": "a finite number",
        "bool_type": "true or false",
        "string_type": "a text",
        "path_type": "a path",
        "tuple_type": "a list",
        "dict_type": "a mapping from names to values",
        "model_type": "a mapping with the keys " + ", ".join(_section_at(keys).model_fields),
        "missing": "a value for every place",
        "too_long": "a shorter list",
        "too_short": "a longer list",
    }
    field = _section_at(keys[:-1]).model_fields.get(keys[-1]) if keys else None
    if field is not None and keys[-1] in ("size", "scale", "ratio"):
        wanted = "one whole number or two, [height, width]" if keys[-1] == "size" else "two numbers, [low, high]"
        return f"must be {wanted}, received {shown}"
    return f"must be {expected.get(kind, mistake['msg'])}, received {shown}"


def _section_at(keys: tuple[str, ...]) -> type[BaseModel]:
    section: type[BaseModel] = Config
    for key in keys:
        field = section.model_fields.get(key)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            break
        section = field.annotation
    return section


# === The schema for editors ===


def json_schema() -> dict:
    """JSON schema of a YAML file: what :class:`Config` takes, plus ``base`` and the short forms."""
    from unet import upsamplers

    schema = Config.model_json_schema()
    base = {"type": "string", "description": "Another YAML file, relative to this one, that this one builds on."}
    schema["properties"] = {"base": base} | schema["properties"]
    definitions = schema["$defs"]
    names = {"enum": list(upsamplers.UPSAMPLERS)}
    definitions["UpsamplerConfig"]["properties"]["name"] |= names
    upsampler = definitions["ModelConfig"]["properties"]["upsampler"]
    reference = upsampler.pop("$ref", None) or upsampler.pop("allOf")[0]["$ref"]
    upsampler["anyOf"] = [names, {"$ref": reference}]
    upsampler["default"] = "conv_transpose"
    size = definitions["DataConfig"]["properties"]["size"]
    pair = {key: size.pop(key) for key in ("type", "minItems", "maxItems", "prefixItems")}
    size["anyOf"] = [{"type": "integer", "minimum": 1}, pair]
    classes = definitions["FolderConfig"]["properties"]["classes"]
    classes["anyOf"].insert(0, {"type": "array", "items": {"type": "string"}, "minItems": 2})
    return schema


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2, ensure_ascii=False))
