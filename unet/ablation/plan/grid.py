"""The grid of an ablation: a base configuration, what varies, and the cells that follow.

.. code-block:: yaml

    base: ../pets.yaml                     # a configuration, relative to this file
    set: {training.epochs: 60}             # what every cell changes in it
    vary:
      model.upsampler: [nearest, carafe, {name: conv_transpose, kernel_size: 4}]
      seed: [0, 1, 2, 3, 4]
    baseline: nearest                      # what the others are compared with; default: the first
"""

import itertools
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from unet import config as configuration
from unet.config import Config
from unet.errors import InputError, nearest

KEYS = ("name", "base", "set", "vary", "baseline")


@dataclass(frozen=True)
class Cell:
    """One run of the grid."""

    variant: str
    """What distinguishes it from the cells of the same seed, as ``carafe``."""
    config: Config
    """Its ``name`` is that of the run directory."""

    @property
    def seed(self) -> int:
        """The run's seed."""
        return self.config.seed


@dataclass(frozen=True)
class Grid:
    """All cells, ordered so that every variant has its first seed before any has its second."""

    name: str
    cells: tuple[Cell, ...]
    baseline: str

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the variants, in the file's order."""
        return tuple(dict.fromkeys(cell.variant for cell in self.cells))

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds, in the file's order."""
        return tuple(dict.fromkeys(cell.seed for cell in self.cells))


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Grid:
    """Read the grid of an ablation.

    Args:
        path: Its YAML file.
        overrides: ``"key=value"`` each. ``name``, ``baseline``, ``base`` and ``vary.KEY`` change the grid; every other
            key is one of the configuration and is set in all cells.

    Raises:
        InputError: The file or a cell's configuration is wrong; the message names the place and what is allowed.
    """
    path = Path(path)
    values, places = configuration.read(path)
    varied = _mapping(values, "vary", path, places)
    settings = [
        (key, value, places[("set", key)]) for key, value in _flat(_mapping(values, "set", path, places), places, "set")
    ]
    for override in overrides:
        key, value = configuration.parse_override(override)
        if key.startswith("vary."):
            varied[key.removeprefix("vary.")] = value
            places[("vary", key.removeprefix("vary."))] = "command line"
        elif key in ("name", "base", "baseline"):
            values[key], places[(key,)] = value, "command line"
        else:
            settings.append((key, value, "command line"))

    # === What the file says ===
    for key in values:
        if key not in KEYS:
            raise InputError(
                f"{places[(str(key),)]}: {key}: unknown key{nearest(key, KEYS)} (known here: {', '.join(KEYS)})"
            )
    base = _base(values, path, places)
    name = values.get("name", re.sub(r"[^A-Za-z0-9._-]", "-", path.stem))
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise InputError(f"{places[('name',)]}: name: must be letters, digits, '.', '_' and '-', received {name!r}")
    for key, choices in varied.items():
        place = places[("vary", key)]
        if not isinstance(choices, list) or not choices:
            raise InputError(f"{place}: vary.{key}: must be a list of values, received {_json(choices)}")
        if len({_json(choice, sort_keys=True) for choice in choices}) < len(choices):
            raise InputError(f"{place}: vary.{key}: the same value stands twice")
    if not [key for key in varied if key != "seed"]:
        place = places.get(("vary",), str(path))
        raise InputError(f"{place}: vary: nothing to compare; give a list to vary.model.upsampler or another key")
    for key, _, place in settings:
        if above := [axis for axis in varied if f"{key}.".startswith(f"{axis}.")]:
            raise InputError(f"{place}: {key}: vary.{above[0]} decides it; give its values there, as a list")

    # === Cells ===
    axes = sorted(varied.items(), key=lambda axis: axis[0] != "seed")  # seeds turn slowest
    configs = []
    for choice in itertools.product(*(choices for _, choices in axes)):
        chosen = [(key, value, places[("vary", key)]) for (key, _), value in zip(axes, choice, strict=True)]
        configs.append(_configure(base, [*settings, *chosen]))
    labels = label(configs)
    cells = tuple(
        Cell(variant, config.model_copy(update={"name": _run_name(variant, config.seed)}))
        for variant, config in zip(labels, configs, strict=True)
    )
    names = [cell.config.name for cell in cells]
    if twice := {name for name in names if names.count(name) > 1}:
        place = places.get(("vary",), str(path))
        raise InputError(f"{place}: vary: several cells would be the same run: {', '.join(sorted(twice))}")
    variants = list(dict.fromkeys(labels))
    baseline = values.get("baseline", variants[0])
    if baseline not in variants:
        place = places.get(("baseline",), str(path))
        raise InputError(
            f"{place}: baseline: {baseline!r} is not one of {', '.join(variants)}{nearest(str(baseline), variants)}"
        )
    return Grid(name, cells, baseline)


def label(configs: list[Config]) -> list[str]:
    """Short names of configurations by what distinguishes them, seeds and names apart.

    The upsampler alone where that tells them apart, else every key that differs: ``carafe, data.size=96``.
    """
    flat = [_flatten(config.model_dump(mode="json")) for config in configs]
    keys = [
        key
        for key in dict.fromkeys(key for values in flat for key in values)
        if key not in ("seed", "name") and len({json.dumps(values.get(key)) for values in flat}) > 1
    ]
    variants = [tuple(json.dumps(values.get(key)) for key in keys) for values in flat]
    upsamplers = [_value(values["model.upsampler"]) for values in flat]
    if len(set(zip(variants, upsamplers))) == len(set(upsamplers)):
        return upsamplers
    rest = [key for key in keys if key != "model.upsampler"]
    first = ["model.upsampler"] if "model.upsampler" in keys else []
    return [
        ", ".join(
            [_value(values[key]) for key in first]
            + [f"{key}={_value(values.get(key))}" for key in rest if key in values]
        )
        for values in flat
    ]


def _mapping(values: dict, key: str, path: Path, places) -> dict:
    mapping = values.get(key, {})
    if not isinstance(mapping, dict):
        raise InputError(f"{places.get((key,), path)}: {key}: must be a mapping, received {_json(mapping)}")
    return {str(inner): value for inner, value in mapping.items()}


def _flat(mapping: dict, places, *above: str):
    """Dotted keys and values of ``set``, whose sections may be written as mappings; notes the keys' places."""
    for key, value in mapping.items():
        place = places.get((*above, key), "")
        if isinstance(value, dict) and key in Config.model_fields:
            for inner, content in value.items():
                places[("set", f"{key}.{inner}")] = places.get((*above, key, str(inner)), place)
                yield f"{key}.{inner}", content
        else:
            places[("set", key)] = place
            yield key, value


def _base(values: dict, path: Path, places) -> Path:
    base = values.get("base")
    place = places.get(("base",), str(path))
    if not isinstance(base, str):
        raise InputError(f"{place}: base: must be the path of a configuration, as ../pets.yaml, received {base!r}")
    found = Path(base) if place == "command line" else path.parent / base
    if not found.is_file():
        others = sorted(str(p) for p in found.parent.glob("*.yaml")) if found.parent.is_dir() else []
        raise InputError(f"{place}: base: there is no file {found}{nearest(str(found), others)}")
    return found


def _configure(base: Path, settings: list[tuple[str, Any, str]]) -> Config:
    overrides = [f"{key}={_json(value)}" for key, value, _ in settings]
    return configuration.load(base, overrides, [place for *_, place in settings])


def _json(value, sort_keys: bool = False) -> str:
    """A value from YAML as YAML on one line."""
    return json.dumps(value, sort_keys=sort_keys, ensure_ascii=False, default=str)


def _flatten(values: dict, prefix: str = "") -> dict[str, Any]:
    """Dotted keys; the upsampler with its options is one value."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name != "model.upsampler":
            flat |= _flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat


def _value(value) -> str:
    """A value as a person writes it: ``96``, ``96×160``, ``conv_transpose kernel_size=4``."""
    if isinstance(value, dict) and "name" in value:
        return " ".join([value["name"], *(f"{key}={_value(v)}" for key, v in value.items() if key != "name")])
    if isinstance(value, list | tuple):
        return str(value[0]) if len(set(value)) == 1 else "×".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _run_name(variant: str, seed: int) -> str:
    """``conv_transpose-kernel_size-4-seed0``."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", variant).strip("-") + f"-seed{seed}"
