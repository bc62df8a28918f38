"""Reading configurations: YAML files, the chain of their bases, overrides, and the place of every key."""

import re
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from unet.config import shipped
from unet.config.explain import Places, explain
from unet.config.schema import Config, UpsamplerConfig
from unet.errors import InputError, nearest
from unet.settings import Settings, is_section


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = (), origins: list[str] | None = None) -> Config:
    """Read a YAML file and the files it builds on, apply overrides and check every value.

    Args:
        path: The YAML file, a run directory, or the name of a shipped configuration such as ``pets_cpu``.
        overrides: Each ``"key.sub=value"``; the value is read as YAML.
        origins: Where each override was written, for error messages; default: the command line.

    Raises:
        InputError: The message lists every mistake with the place where it was written.
    """
    path = shipped.resolve(path)
    values, places = _read_chain(path)
    if "name" not in values:
        values["name"] = re.sub(r"[^A-Za-z0-9._-]", "-", path.stem)
    for override, origin in zip(overrides, origins or ["command line"] * len(overrides), strict=True):
        _apply_override(values, places, override, origin)
    return _checked(values, places, str(path))


DATA_PLACES = ("data.data_dir", "data.cache_dir", "data.download", "data.source")
"""Keys that say where data are; they may differ between training and later steps."""


def with_data_at(config: Config, overrides: list[str] | tuple[str, ...]) -> Config:
    """Change where the data of a trained run are.

    Args:
        config: Configuration of the run.
        overrides: Each ``"key=value"``, the key being one of ``DATA_PLACES``.

    Raises:
        InputError: A key is not one of these, or a value is wrong.
    """
    values = config.model_dump(mode="json")
    places: Places = {}
    for override in overrides:
        key, _ = parse_override(override)
        if key not in DATA_PLACES:
            hint = nearest(key, DATA_PLACES)
            raise InputError(
                f"command line: {key}: cannot be changed for a trained network, only where its data are: "
                f"{', '.join(DATA_PLACES)}{hint}"
            )
        _apply_override(values, places, override, "command line")
    return _checked(values, places, "command line")


def _checked(values: dict, places: Places, origin: str) -> Config:
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise InputError(explain(error, places, origin)) from None


# === Files ===


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, except that ``1e-3`` is a number as in YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _read_chain(path: Path, above: tuple[Path, ...] = ()) -> tuple[dict, Places]:
    """Values and places of a file, merged over those of its base."""
    if path.resolve() in above:
        chain = " -> ".join(p.name for p in (*above, path))
        raise InputError(f"{path}: circular base: {chain}")
    values, places = read(path)
    if "base" not in values:
        return values, places
    base = values.pop("base")
    where = places.pop(("base",))
    if not isinstance(base, str):
        raise InputError(f"{where}: base: must be the path of another YAML file, received {base!r}")
    base_path = path.parent / base
    if not base_path.is_file():
        base_path = shipped.find(base) or base_path
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
                raise InputError(f"{place}: {'.'.join(here)}: duplicate key, first given at {places[here]}")
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
        raise InputError(f"{path}: must contain keys and values such as 'seed: 0', received {type(values).__name__}")
    return values, places


def _merge(base: dict, top: dict, section: type[Settings]) -> dict:
    """Merge ``top`` over ``base``: sections key by key; any other value replaces the base's."""
    merged = dict(base)
    for key, value in top.items():
        subsection = _subsection(section, key)
        if subsection and isinstance(value, dict) and isinstance(base.get(key), dict):
            value = _merge(base[key], value, subsection)
        merged[key] = value
    return merged


def _subsection(section: type[Settings], key: str) -> type[Settings] | None:
    """Section called ``key``; ``None`` for a value, and for the upsampler, which is replaced as a whole."""
    field = section.model_fields.get(key)
    kind = field.annotation if field else None
    return kind if is_section(kind) and kind is not UpsamplerConfig else None


# === Overrides ===


def parse_override(override: str, origin: str = "command line") -> tuple[str, Any]:
    """Split ``"key.sub=value"`` into its key and its value, which is read as YAML.

    Raises:
        InputError: There is no ``=``, or the value is not YAML; ``origin`` begins the message.
    """
    key, equals, text = override.partition("=")
    if not equals or not all(key.strip().split(".")):
        raise InputError(f"{origin}: {override!r}: an override is written key.sub=value, such as training.epochs=8")
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
    section: type[Settings] = Config
    for name in names[:-1]:
        section = _subsection(section, name) or Settings
    subsection = _subsection(section, names[-1])
    if subsection and isinstance(value, dict) and isinstance(target.get(names[-1]), dict):
        value = _merge(target[names[-1]], value, subsection)
    target[names[-1]] = value
    for place in [place for place in places if place[: len(names)] == names]:
        del places[place]
    places[names] = origin
