"""Reading configurations: YAML files, the chain of their bases, overrides, and the place of every key."""

import logging
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ValidationError

from unet.config import document, shipped
from unet.config.explain import Places, explain
from unet.config.schema import Config, UpsamplerConfig
from unet.errors import InputError, nearest, shortened
from unet.files import read_text
from unet.settings import Settings, is_section, shown

log = logging.getLogger("unet")

MAX_BASES = 5
"""Most files in a chain of bases."""


class Setting(NamedTuple):
    """A value for a dotted key."""

    key: str
    value: Any
    origin: str
    """Where it was written, for messages: ``file:line`` or ``command line``."""


@dataclass(frozen=True)
class Draft:
    """Values of a YAML file and its bases that are not checked yet."""

    path: Path
    values: dict[str, Any]
    places: Places

    @classmethod
    def read(cls, path: str | Path) -> "Draft":
        """Read a YAML file, or the shipped configuration of this name, and the files it builds on.

        Raises:
            InputError: A file cannot be read, is not YAML, or there is no such file.
        """
        path = shipped.resolve(path)
        values, places = _read_chain(path)
        return cls(path, {"name": re.sub(r"[^A-Za-z0-9._-]", "-", path.stem)} | values, places)

    def checked(self, settings: Iterable[Setting] = ()) -> Config:
        """Apply settings and check every value.

        Raises:
            InputError: The message lists every mistake with the place where it was written.
        """
        values, places = dict(self.values), dict(self.places)
        for setting in settings:
            _apply(values, places, setting)
        try:
            return Config.model_validate(values)
        except ValidationError as error:
            raise InputError(explain(error, places, str(self.path))) from None


def load(path: str | Path, overrides: list[str] | tuple[str, ...] = ()) -> Config:
    """Read a YAML file and the files it builds on, apply overrides and check every value.

    Args:
        path: The YAML file, a run directory, or the name of a shipped configuration such as ``pets_cpu``.
        overrides: Each ``"key.sub=value"``; the value is read as YAML.

    Raises:
        InputError: The message lists every mistake with the place where it was written.
    """
    return Draft.read(path).checked([parse_override(override) for override in overrides])


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
    settings = [parse_override(override) for override in overrides]
    for key, *_ in settings:
        if key not in DATA_PLACES:
            hint = nearest(key, DATA_PLACES)
            raise InputError(
                f"command line: {shortened(key)}: cannot be changed for a trained network, only where its data are: "
                f"{', '.join(DATA_PLACES)}{hint}"
            )
    return Draft(Path("command line"), config.model_dump(mode="json"), {}).checked(settings)


# === Files ===

PATHS = ("data.data_dir", "data.cache_dir", "init_from", "model.weights")
"""Keys of paths, which a YAML file gives relative to itself."""


def located(key: str, value: Any, folder: Path, origin: str) -> Any:
    """Make a path from a YAML file in ``folder`` relative to the working directory; any other value stays as it is.

    Earlier versions took such a path as relative to the working directory. It still is, with a warning, if it exists
    there only.
    """
    if key not in PATHS or not isinstance(value, str) or value[:1] in ("", "~") or value in ("imagenet", "none"):
        return value
    path = str(folder / value)
    if not os.path.lexists(path) and os.path.lexists(value):
        log.warning(
            "%s: %s: %s was found in the working directory, not next to the file; write its path relative to the file",
            origin,
            key,
            shortened(value),
        )
        return value
    return path


def _with_located_paths(values: dict, places: Places, path: Path) -> dict:
    changed = dict(values)
    for key in PATHS:
        section, _, name = key.rpartition(".")
        holder = changed.get(section) if section else changed
        if isinstance(holder, dict) and name in holder:
            value = located(key, holder[name], path.parent, places.get(tuple(key.split(".")), str(path)))
            changed |= {section: holder | {name: value}} if section else {name: value}
    return changed


def _read_chain(path: Path, above: tuple[Path, ...] = ()) -> tuple[dict, Places]:
    """Values and places of a file, merged over those of its base."""
    files = (*above, path)
    if any(os.path.realpath(path) == os.path.realpath(other) for other in above):
        raise InputError(f"{path}: circular base: {' -> '.join(file.name for file in files)}")
    if len(files) > MAX_BASES:
        raise InputError(f"{path}: the chain of bases is longer than {MAX_BASES} files, beginning with {files[0]}")
    values, places = read(path)
    values = _with_located_paths(values, places, path)
    if "base" not in values:
        return values, places
    base_values, base_places = _read_chain(find_base(values.pop("base"), path.parent, places.pop(("base",))), files)
    base_values.pop("name", None)
    return _merge(base_values, values, Config), base_places | places


def find_base(base: Any, folder: Path, origin: str) -> Path:
    """Find what a file names as its ``base``: a path relative to ``folder``, else a shipped configuration.

    Args:
        base: The value in the file.
        folder: Folder of the file.
        origin: Where it was written, for messages.

    Raises:
        InputError: It is not text, or there is no such file.
    """
    if not isinstance(base, str):
        raise InputError(
            f"{origin}: base: must be the path of another YAML file, such as ../pets.yaml, received {shown(base)}"
        )
    path = folder / base
    if os.path.isfile(path):
        return path
    if found := shipped.find(base):
        return found
    if os.path.lexists(path):  # the reader says why it cannot be read
        return path
    others = sorted(p.name for p in path.parent.glob("*.yaml")) if os.path.isdir(path.parent) else []
    raise InputError(f"{origin}: base: there is no file {shortened(str(path))}{nearest(path.name, others)}")


def read(path: Path) -> tuple[dict, Places]:
    """Values of one YAML file, and the file and line of every key.

    Raises:
        InputError: There is no such file, or it is not a YAML mapping; see :mod:`unet.config.document` for its limits.
    """
    try:
        values, lines = document.parse(read_text(path, document.MAX_BYTES))
    except FileNotFoundError:
        others = sorted(str(p) for p in path.parent.glob("*.yaml")) if os.path.isdir(path.parent) else []
        raise InputError(f"{path}: there is no such file{nearest(str(path), others)}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read as text: {error.strerror or error}") from None
    except document.Malformed as error:
        raise InputError(f"{path}:{error.line}: {error}") from None
    if values is None:
        return {}, {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: must contain keys and values such as 'seed: 0', received {type(values).__name__}")
    return values, {keys: f"{path}:{line}" for keys, line in lines.items()}


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


def parse_override(override: str) -> Setting:
    """Read ``"key.sub=value"``, a setting from the command line; the value is YAML.

    Raises:
        InputError: There is no ``=``, or the value is not YAML.
    """
    key, equals, text = override.partition("=")
    key = key.strip()
    if not equals or not all(key.split(".")):
        raise InputError(
            f"command line: {shortened(override)!r}: an override is written key.sub=value, such as training.epochs=8"
        )
    try:
        value, _ = document.parse(text)
    except document.Malformed as error:
        problem = str(error).removeprefix("not valid YAML: ")
        raise InputError(
            f"command line: {shortened(key)}: {shortened(text, 60)!r} is not a YAML value: {problem}"
        ) from None
    return Setting(key, value, "command line")


def _apply(values: dict, places: Places, setting: Setting) -> None:
    names = tuple(setting.key.split("."))
    if len(names) > document.MAX_DEPTH:
        raise InputError(f"{setting.origin}: {shortened(setting.key)}: unknown key")
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
    value = setting.value
    if subsection and isinstance(value, dict) and isinstance(target.get(names[-1]), dict):
        value = _merge(target[names[-1]], value, subsection)
    target[names[-1]] = value
    for place in [place for place in places if place[: len(names)] == names]:
        del places[place]
    places[names] = setting.origin
