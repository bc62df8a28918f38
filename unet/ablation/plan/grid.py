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
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet import config as configuration
from unet.ablation.plan.labels import label_configs, run_name
from unet.config import Config, shipped
from unet.errors import InputError, nearest

KEYS = ("name", "base", "set", "vary", "baseline")


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
    settings: list[tuple[str, Any, str]]
    """Dotted key, value and place of everything that is set in all cells."""
    places: dict

    def place(self, *keys: str) -> str:
        """File and line of a key, or the file alone."""
        return self.places.get(keys, str(self.path))

    def check(self) -> None:
        """Raise an InputError for unknown keys, and for ``vary`` and ``set`` that do not describe a grid."""
        for key in self.values:
            if key not in KEYS:
                raise InputError(
                    f"{self.place(str(key))}: {key}: unknown key{nearest(key, KEYS)} (known here: {', '.join(KEYS)})"
                )
        for key, choices in self.varied.items():
            place = self.place("vary", key)
            if not isinstance(choices, list) or not choices:
                raise InputError(f"{place}: vary.{key}: must be a list of values, received {_json(choices)}")
            if len({_json(choice, sort_keys=True) for choice in choices}) < len(choices):
                raise InputError(f"{place}: vary.{key}: duplicate value")
        if not [key for key in self.varied if key != "seed"]:
            raise InputError(
                f"{self.place('vary')}: vary: nothing to compare; list values under vary.model.upsampler or another key"
            )
        for key, _, place in self.settings:
            if above := [axis for axis in self.varied if f"{key}.".startswith(f"{axis}.")]:
                raise InputError(f"{place}: {key}: already varied by vary.{above[0]}; list its values there")

    def base(self) -> Path:
        """Path of the configuration that all cells start from."""
        base, place = self.values.get("base"), self.place("base")
        if not isinstance(base, str):
            raise InputError(
                f"{place}: base: must be the path of a configuration, such as ../pets.yaml, received {base!r}"
            )
        found = Path(base) if place == "command line" else self.path.parent / base
        found = found if found.is_file() else shipped.find(base) or found
        if not found.is_file():
            others = sorted(str(p) for p in found.parent.glob("*.yaml")) if found.parent.is_dir() else []
            raise InputError(f"{place}: base: no such file: {found}{nearest(str(found), others)}")
        return found

    def name(self) -> str:
        """Name of the ablation and of its directory; by default the name of the file."""
        name = self.values.get("name", re.sub(r"[^A-Za-z0-9._-]", "-", self.path.stem))
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
            raise InputError(
                f"{self.place('name')}: name: must consist of letters, digits, '.', '_' and '-', received {name!r}"
            )
        return name

    def baseline(self, variants: list[str]) -> str:
        """Name of the variant that the others are compared with; by default the first."""
        baseline = self.values.get("baseline", variants[0])
        if baseline not in variants:
            raise InputError(
                f"{self.place('baseline')}: baseline: {baseline!r} is not one of {', '.join(variants)}"
                f"{nearest(str(baseline), variants)}"
            )
        return baseline


def _read(path: Path, overrides: list[str] | tuple[str, ...]) -> _Document:
    values, places = configuration.read(path)
    varied = _mapping(values, "vary", path, places)
    settings = list(_settings(_mapping(values, "set", path, places), places))
    for override in overrides:
        key, value = configuration.parse_override(override)
        if key.startswith("vary."):
            varied[key.removeprefix("vary.")] = value
            places[("vary", key.removeprefix("vary."))] = "command line"
        elif key in ("name", "base", "baseline"):
            values[key], places[(key,)] = value, "command line"
        else:
            settings.append((key, value, "command line"))
    return _Document(path, values, varied, settings, places)


def _mapping(values: dict, key: str, path: Path, places) -> dict[str, Any]:
    mapping = values.get(key, {})
    if not isinstance(mapping, dict):
        raise InputError(f"{places.get((key,), path)}: {key}: must be a mapping, received {_json(mapping)}")
    return {str(inner): value for inner, value in mapping.items()}


def _settings(mapping: dict, places) -> Iterator[tuple[str, Any, str]]:
    """Dotted key, value and place of the entries of ``set``; a section may be written as a mapping."""
    for key, value in mapping.items():
        place = places.get(("set", key), "")
        if isinstance(value, dict) and key in Config.model_fields:
            for inner, content in value.items():
                yield f"{key}.{inner}", content, places.get(("set", key, str(inner)), place)
        else:
            yield key, value, place


def _cells(document: _Document, base: Path) -> tuple[Cell, ...]:
    axes = sorted(document.varied.items(), key=lambda axis: axis[0] != "seed")  # the seed varies slowest
    configs = []
    for choice in itertools.product(*(choices for _, choices in axes)):
        chosen = [(key, value, document.place("vary", key)) for (key, _), value in zip(axes, choice, strict=True)]
        settings = [*document.settings, *chosen]
        overrides = [f"{key}={_json(value)}" for key, value, _ in settings]
        configs.append(configuration.load(base, overrides, [place for *_, place in settings]))
    cells = tuple(
        Cell(variant, config.model_copy(update={"name": run_name(variant, config.seed)}))
        for variant, config in zip(label_configs(configs), configs, strict=True)
    )
    names = [cell.config.name for cell in cells]
    if duplicates := {name for name in names if names.count(name) > 1}:
        raise InputError(
            f"{document.place('vary')}: vary: several cells have the same configuration: "
            + ", ".join(sorted(duplicates))
        )
    return cells


def _json(value, sort_keys: bool = False) -> str:
    """A value from YAML, as YAML on one line."""
    return json.dumps(value, sort_keys=sort_keys, ensure_ascii=False, default=str)
