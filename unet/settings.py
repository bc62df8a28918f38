"""Typed settings: the base class of configuration sections and options, and their mistakes as messages."""

import itertools
import json
import types
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeGuard, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Discriminator, Tag, ValidationError

from unet.errors import nearest, shortened

MAX_MISTAKES = 20
"""Most mistakes that are explained in one message."""


class Settings(BaseModel):
    """A group of settings: unknown keys and wrong types are errors, and values do not change."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @classmethod
    def checked(cls, **values) -> Self:
        """Build from values.

        Raises:
            Mistakes: Values are wrong; every one is named.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise Mistakes(mistakes(error, cls)) from None


Mistake = tuple[tuple[str, ...], str]
"""The keys that lead to a wrong value, and what is wrong with it."""


class Mistakes(ValueError):
    """Wrong values, each with its key; a validator raises it to name a key below its own.

    Args:
        found: Keys relative to the settings that are checked, and messages; the first ``MAX_MISTAKES + 1`` are kept.
    """

    def __init__(self, found: Iterable[Mistake]):
        self.found = list(itertools.islice(found, MAX_MISTAKES + 1))
        super().__init__("\n".join(f"{'.'.join(keys)}: {text}" if keys else text for keys, text in self.found))

    @classmethod
    def of(cls, key: str, text: str) -> Self:
        """A single mistake."""
        return cls([((key,), text)])

    def below(self, key: str) -> "Mistakes":
        """The same mistakes in the settings called ``key``."""
        return Mistakes([((key, *keys), text) for keys, text in self.found])


@dataclass(frozen=True)
class Expected:
    """Annotation metadata: description of valid values in messages, for types that need more than their name."""

    text: str


OF_MAPPING, OF_OTHER = Tag("mapping"), Tag("other")
"""Tags of the two members of a union with :data:`BY_KIND`."""
BY_KIND = Discriminator(lambda value: "mapping" if isinstance(value, dict | BaseModel) else "other")
"""Annotation metadata of a union of a mapping and something else: a mistake in one is not also one in the other."""
OF_TEXT = Tag("text")
BY_TEXT = Discriminator(lambda value: "text" if isinstance(value, str) else "other")
"""The same for a union of text and something else."""


def mistakes(error: ValidationError, model: type[Settings]) -> list[Mistake]:
    """Translate pydantic's errors to keys of ``model`` and messages in plain English, without repetitions."""
    all_details = error.errors(include_url=False)
    told = [details for details in all_details if details["type"] != "default_factory_not_called"]  # for want of others
    explained = (mistake for details in told for mistake in _explain(details, model))
    found: dict[Mistake, None] = {}
    for mistake in explained:
        if len(found) == MAX_MISTAKES:
            return [*found, ((), "and more mistakes")]
        found[mistake] = None
    return list(found)


def flattened(values: dict[str, Any], whole: tuple[str, ...] = (), prefix: str = "") -> dict[str, Any]:
    """Values of nested settings by dotted key; those of the keys in ``whole`` stay as they are."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and name not in whole:
            flat |= flattened(value, whole, f"{name}.")
        else:
            flat[name] = value
    return flat


def shown(value: Any) -> str:
    """A value from YAML, as YAML on one line, for a message."""
    text = shortened(json.dumps(value, ensure_ascii=False, default=str))
    return text.encode("utf-8", "backslashreplace").decode()


def _explain(details, model: type[Settings]) -> Iterator[Mistake]:
    keys, annotation = _follow(details["loc"], model)
    kind, metadata = _bare(annotation)
    error, given, context = details["type"], details["input"], details.get("ctx", {})
    received = f"received {shown(given)}"
    bounds = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤"}
    bound = next((name for name in bounds if name in context), None)
    if error == "value_error":
        cause = context["error"]
        found = cause.found if isinstance(cause, Mistakes) else [((), str(cause))]
        yield from (((*keys, *below), text) for below, text in found)
    elif error in ("extra_forbidden", "invalid_key"):
        known = list(fields(model, keys[:-1]))
        yield keys, f"unknown key{nearest(keys[-1], known)} (known here: {', '.join(known)})"
    elif error == "missing" and isinstance(details["loc"][-1], str):
        yield keys, "is missing"
    elif get_origin(kind) is Literal:
        choices = [str(choice) for choice in get_args(kind)]
        yield keys, f"{shown(given)} is not one of {', '.join(choices)}{nearest(given, choices)}"
    elif bound:
        yield keys, f"must be {bounds[bound]} {context[bound]:g}, {received}"
    elif stated := [entry.text for entry in metadata if isinstance(entry, Expected)]:
        yield keys, f"must be {stated[0]}, {received}"
    elif error == "finite_number":
        yield keys, f"must be a finite number, {received}"
    else:
        yield keys, f"must be {_describe(kind)}, {received}"


def fields(model: type[Settings], keys: tuple[str, ...]) -> dict[str, Any]:
    """Fields of the section at ``keys`` by name; empty if there is no section."""
    section = _bare(_mapping_of(_bare(_follow(keys, model)[1])[0]))[0]
    return section.model_fields if is_section(section) else {}


def is_section(annotation) -> TypeGuard[type[Settings]]:
    """Whether a type is a group of settings."""
    return isinstance(annotation, type) and issubclass(annotation, Settings)


def _follow(location: tuple[str | int, ...], model: type[Settings]) -> tuple[tuple[str, ...], Any]:
    """Keys of the YAML at pydantic's location, and the annotation of the value there."""
    keys: list[str] = []
    annotation: Any = model
    for index, part in enumerate(location):
        kind, _ = _bare(annotation)
        if is_section(kind) and part in kind.model_fields:
            field = kind.model_fields[part]
            annotation = Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation
            keys.append(str(part))
        elif get_origin(kind) is dict:
            is_key = location[index + 1 : index + 2] == ("[key]",)
            return (*keys, str(part)), get_args(kind)[0 if is_key else 1]
        elif get_origin(kind) is tuple and isinstance(part, int):
            stated = [entry for entry in _bare(annotation)[1] if isinstance(entry, Expected)]
            item = get_args(kind)[0]
            return tuple(keys), Annotated[(item, *stated)] if stated else item
        elif is_section(kind):  # an unknown key
            return (*keys, str(part)), None
        elif part == OF_MAPPING.tag and index + 1 < len(location):
            annotation = _mapping_of(kind)
        else:  # the name that pydantic gives to a member of a union
            break
    return tuple(keys), annotation


def _mapping_of(kind) -> Any:
    """The mapping among the members of a union with ``BY_KIND``; any other type itself."""
    return next((member for member in get_args(kind) if OF_MAPPING in _bare(member)[1]), kind)


def _bare(annotation) -> tuple[Any, tuple]:
    """An annotation without its metadata and without ``None``, and the metadata."""
    metadata: tuple = ()
    while True:
        if get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            metadata += tuple(more)
        elif get_origin(annotation) in (Union, types.UnionType):
            members = [member for member in get_args(annotation) if member is not types.NoneType]
            if len(members) != 1:
                return annotation, metadata
            annotation = members[0]
        else:
            return annotation, metadata


def _describe(kind) -> str:
    """A type in words."""
    if is_section(kind):
        return f"a mapping with the keys {', '.join(kind.model_fields)}"
    if get_origin(kind) is dict:
        return "a mapping from names to values"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text", Path: "a path"}
    return names.get(kind, "a list")
