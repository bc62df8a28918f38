"""The grid of an ablation: a base configuration, what varies, and the resulting cells.

.. code-block:: yaml

    base: ../pets.yaml                     # a configuration: a path relative to this file, or the name of a shipped one
    set: {training.epochs: 60}             # changes that apply to every cell
    vary:
      model.upsampler: [nearest, carafe, {name: conv_transpose, kernel_size: 4}]
      seed: [0, 1, 2, 3, 4]
    baseline: nearest                      # the variant the others are compared with; default: the first
"""

import itertools
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet import config as configuration
from unet.ablation.plan.labels import label_configs, run_name
from unet.config import Config, Draft, Setting, shipped
from unet.config.schema import MAX_NAME, NAME, NAME_RULE
from unet.errors import InputError, nearest, shortened
from unet.settings import shown

KEYS = ("name", "base", "set", "vary", "baseline")
MAX_CELLS = 1_000
"""Most cells of a grid."""


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    variant: str
    """What distinguishes it from the other cells of the same seed, such as ``carafe``."""
    config: Config
    """Configuration of the run; its ``name`` is the name of the run directory."""

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return self.config.seed


@dataclass(frozen=True)
class Grid:
    """All cells, ordered so that every variant has its first seed before any has its second."""

    name: str
    cells: tuple[Cell, ...]
    baseline: str

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the variants, in the order of the file."""
        return tuple(dict.fromkeys(cell.variant for cell in self.cells))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the order of the file."""
        return tuple(dict.fromkeys(cell.seed for cell in self.cells))


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Grid:
    """Read the grid of an ablation.

    Args:
        path: YAML file of the grid, or the name of a shipped one such as ``ablation/upsamplers``.
        overrides: Strings ``"key=value"``. ``name``, ``baseline``, ``base`` and ``vary.KEY`` change the grid; every
            other key is a key of the configuration and is set in all cells.

    Raises:
        InputError: The file or the configuration of a cell is invalid; the message gives the place and what is
            accepted.
    """
    document = _read(shipped.resolve(path), overrides)
    document.check()
    name = document.name()
    cells = _cells(document, document.base())
    variants = list(dict.fromkeys(cell.variant for cell in cells))
    return Grid(name, cells, document.baseline(variants))


@dataclass(frozen=True)
class _Document:
    """Contents of a grid file after its overrides, and the place where each key was written."""

    path: Path
    values: dict[str, Any]
    varied: dict[str, Any]
    """Values of ``vary`` by dotted key."""
    settings: list[Setting]
    """Everything that is set in all cells."""
    places: dict

    def place(self, *keys: str) -> str:
        """File and line of a key, or the file alone."""
        return self.places.get(keys, str(self.path))

    def check(self) -> None:
        """Raise an InputError for unknown keys, and for ``vary`` and ``set`` that do not describe a grid."""
        for key in self.values:
            if key not in KEYS:
                raise InputError(
                    f"{self.place(str(key))}: {shortened(str(key))}: unknown key{nearest(key, KEYS)} "
                    f"(known here: {', '.join(KEYS)})"
                )
        for key, choices in self.varied.items():
            place = self.place("vary", key)
            if not isinstance(choices, list) or not choices:
                raise InputError(f"{place}: vary.{key}: must be a list of values, received {shown(choices)}")
            if len({_canonical(choice) for choice in choices}) < len(choices):
                raise InputError(f"{place}: vary.{key}: duplicate value")
        if not [key for key in self.varied if key != "seed"]:
            raise InputError(
                f"{self.place('vary')}: vary: nothing to compare; list values under vary.model.upsampler or another key"
            )
        if (count := math.prod(map(len, self.varied.values()))) > MAX_CELLS:
            raise InputError(f"{self.place('vary')}: vary: gives {count:,} cells; at most {MAX_CELLS:,} are accepted")
        for key, _, place in self.settings:
            if above := [axis for axis in self.varied if f"{key}.".startswith(f"{axis}.")]:
                raise InputError(f"{place}: {key}: already varied by vary.{above[0]}; list its values there")

    def base(self) -> Path:
        """Path of the configuration that all cells start from."""
        place = self.place("base")
        return configuration.find_base(
            self.values.get("base"), Path() if place == "command line" else self.path.parent, place
        )

    def name(self) -> str:
        """Name of the ablation and of its directory; by default the name of the file."""
        name = self.values.get("name", re.sub(r"[^A-Za-z0-9._-]", "-", self.path.stem))
        if not isinstance(name, str) or len(name) > MAX_NAME or not re.fullmatch(NAME, name):
            raise InputError(f"{self.place('name')}: name: must be {NAME_RULE}, received {shown(name)}")
        return name

    def baseline(self, variants: list[str]) -> str:
        """Name of the variant that the others are compared with; by default the first."""
        baseline = self.values.get("baseline", variants[0])
        if baseline not in variants:
            raise InputError(
                f"{self.place('baseline')}: baseline: {shown(baseline)} is not one of {', '.join(variants)}"
                f"{nearest(str(baseline), variants)}"
            )
        return baseline


def _read(path: Path, overrides: list[str] | tuple[str, ...]) -> _Document:
    values, places = configuration.read(path)
    varied = {
        key: [configuration.located(key, choice, path.parent, str(path)) for choice in choices]
        if isinstance(choices, list)
        else choices
        for key, choices in _mapping(values, "vary", path, places).items()
    }
    settings = [
        Setting(key, configuration.located(key, value, path.parent, place), place)
        for key, value, place in _settings(_mapping(values, "set", path, places), places)
    ]
    for override in overrides:
        setting = configuration.parse_override(override)
        key, value, _ = setting
        if key.startswith("vary."):
            varied[key.removeprefix("vary.")] = value
            places[("vary", key.removeprefix("vary."))] = "command line"
        elif key in ("name", "base", "baseline"):
            values[key], places[(key,)] = value, "command line"
        else:
            settings.append(setting)
    return _Document(path, values, varied, settings, places)


def _mapping(values: dict, key: str, path: Path, places) -> dict[str, Any]:
    mapping = values.get(key, {})
    if not isinstance(mapping, dict):
        raise InputError(f"{places.get((key,), path)}: {key}: must be a mapping, received {shown(mapping)}")
    return {str(inner): value for inner, value in mapping.items()}


def _settings(mapping: dict, places) -> Iterator[Setting]:
    """Entries of ``set``; a section may be written as a mapping."""
    for key, value in mapping.items():
        place = places.get(("set", key), "")
        if isinstance(value, dict) and key in Config.model_fields:
            for inner, content in value.items():
                yield Setting(f"{key}.{inner}", content, places.get(("set", key, str(inner)), place))
        else:
            yield Setting(key, value, place)


def _cells(document: _Document, base: Path) -> tuple[Cell, ...]:
    axes = sorted(document.varied.items(), key=lambda axis: axis[0] != "seed")  # the seed varies slowest
    draft = Draft.read(base)
    configs = []
    for choice in itertools.product(*(choices for _, choices in axes)):
        chosen = [Setting(key, value, document.place("vary", key)) for (key, _), value in zip(axes, choice)]
        configs.append(draft.checked([*document.settings, *chosen]))
    if any(config.training.batch_size == "auto" for config in configs):
        raise InputError(
            f"{document.path}: training.batch_size: auto may give the cells batches of different sizes, so that their "
            "scores cannot be compared; give a number"
        )
    cells = tuple(
        Cell(variant, config.model_copy(update={"name": run_name(variant, config.seed)}))
        for variant, config in zip(label_configs(configs), configs, strict=True)
    )
    counts = Counter(cell.config.name for cell in cells)
    if duplicates := [name for name, count in counts.items() if count > 1]:
        raise InputError(
            f"{document.place('vary')}: vary: several cells have the same configuration: "
            + shortened(", ".join(sorted(duplicates)))
        )
    return cells


def _canonical(value) -> str:
    """A text that is the same for equal values, whatever the order of their keys."""
    if isinstance(value, dict):
        value = {str(key): _canonical(inner) for key, inner in value.items()}
    elif isinstance(value, list):
        value = [_canonical(inner) for inner in value]
    return json.dumps(value, sort_keys=True, default=str)
