"""Hypothesis strategies from the annotations of a section of the configuration."""

import types
import typing
from pathlib import Path

from annotated_types import Ge, Gt, Le, Lt
from hypothesis import strategies as st

from unet.config import UpsamplerConfig
from unet.settings import Settings, is_section
from unet.upsamplers import UPSAMPLERS

CLASSES = st.sampled_from(["pet", "background", "border", "1e3", "on", "klasse ä", "犬"])
NUMBERS = [0, 1, 2, 3, 4, 5, 8, 255, 0.0, -0.0, -0.75, 1e-6, 5e-324, 0.1, 0.5, 0.999, 1.0, 1.3333, 1e30]
"""Numbers to draw besides the bounds of a field."""


def sections(section: type[Settings], junk: st.SearchStrategy, **given: st.SearchStrategy) -> st.SearchStrategy:
    """Mappings with some of the keys of ``section``: most of the values are of the right type, few are ``junk``.

    Args:
        section: The section.
        junk: Values of other types; ``st.nothing()`` for none.
        given: Values of some fields instead of those from their annotations.
    """
    fields = {
        name: given.get(name) or values(typing.Annotated[(field.annotation, *field.metadata, None)], junk)
        for name, field in section.model_fields.items()
    }
    few = st.dictionaries(st.sampled_from([*fields, "unknown"]), junk, max_size=1) if not junk.is_empty else st.just({})
    return st.builds(
        lambda drawn, wrong, choice: drawn | (wrong if choice == 0 else {}),
        st.fixed_dictionaries({}, optional=fields),
        few,
        st.integers(0, 5),
    )


def values(annotation, junk: st.SearchStrategy) -> st.SearchStrategy:
    """Values of an annotated type as YAML gives them, at its bounds and a little beyond."""
    metadata: tuple = ()
    while typing.get_origin(annotation) is typing.Annotated:
        annotation, *more = typing.get_args(annotation)
        metadata += tuple(more)
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is UpsamplerConfig:
        return st.sampled_from(list(UPSAMPLERS)).flatmap(lambda name: upsamplers(name, junk))
    if is_section(annotation):
        return sections(annotation, junk)
    if origin in (typing.Union, types.UnionType):
        return st.one_of(*(st.none() if part is types.NoneType else values(part, junk) for part in parts))
    if origin is typing.Literal:
        return st.sampled_from(parts)
    if origin is tuple:
        length = {"max_size": 6} if parts[-1] is Ellipsis else {"min_size": len(parts), "max_size": len(parts)}
        return st.lists(values(parts[0], junk), **length).map(_sorted)
    if origin is dict:
        return st.dictionaries(CLASSES, values(parts[1], junk), min_size=1, max_size=3)
    if annotation is bool:
        return st.booleans()
    if annotation in (int, float):
        bounds = [getattr(m, name) for m in _flat(metadata) for kind, name in _BOUNDS if isinstance(m, kind)]
        near = [bound + step for bound in bounds for step in (-1, 0, 1)]
        return st.sampled_from([annotation(n) for n in [*NUMBERS, *near] if annotation is float or n == int(n)])
    assert annotation in (str, Path), annotation
    return st.sampled_from(["a", "images", "a.txt", "1e3", "no", "~", "", "x y", "ü", "../b", "犬"])


_BOUNDS = ((Ge, "ge"), (Gt, "gt"), (Le, "le"), (Lt, "lt"))


def _flat(metadata):
    """Constraints in metadata; pydantic's Field holds its own."""
    for entry in metadata:
        yield from getattr(entry, "metadata", [entry])


def upsamplers(name: str, junk: st.SearchStrategy) -> st.SearchStrategy:
    """An upsampler by its name, with or without options."""
    options = sections(UPSAMPLERS[name].options, junk)
    return st.just(name) | options.map(lambda chosen: chosen | {"name": name})


def _sorted(values):
    """Values in order, as a range needs them, if they have one."""
    try:
        return sorted(values)
    except TypeError:
        return values
