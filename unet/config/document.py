"""A YAML text as values, read within limits, and the line of every key."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from unet.errors import shortened

MAX_BYTES = 2**18
"""Largest size of a YAML file, and of its keys and values with those that aliases repeat."""
MAX_VALUES = 10_000
"""Most keys and values in a document, those that aliases repeat included."""
MAX_DEPTH = 20
"""Most levels of mappings and lists."""
MAX_DIGITS = 100
"""Most characters of a number."""

_TAG = "tag:yaml.org,2002:"
_NUMBERS = (f"{_TAG}int", f"{_TAG}float")
_SCALARS = (*_NUMBERS, f"{_TAG}str", f"{_TAG}bool", f"{_TAG}null")

Lines = dict[tuple[str, ...], int]
"""Line of each key, from 1."""


class Malformed(ValueError):
    """A text that is not YAML, or exceeds a limit.

    Args:
        problem: What is wrong.
        line: Line of the problem, from 1.
    """

    def __init__(self, problem: str, line: int):
        super().__init__(problem)
        self.line = line


def parse(text: str) -> tuple[Any, Lines]:
    """Read a text as YAML 1.1 like PyYAML, except that ``1e-3`` is a number, as in YAML 1.2.

    Values are text, numbers, booleans, null, mappings and lists. What PyYAML would read as anything else is text, such
    as a date and the merge key ``<<``, or not accepted if a tag demands it.

    Returns:
        The value, ``None`` for an empty text, and the lines of the keys of mappings outside of lists.

    Raises:
        Malformed: It is not YAML, has a duplicate key, an unknown tag, or more values or levels than the limits.
    """
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Malformed(f"not valid YAML: the character U+{error.character:04X} is not allowed", line) from None
    try:
        root = loader.get_single_node()
        lines: Lines = {}
        return None if root is None else _Constructor(loader, lines).construct(root, (), 1), lines
    except _Refused as error:
        raise Malformed(error.reason, error.line) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        problem = shortened(error.problem or error.context or "")
        raise Malformed(f"not valid YAML: {problem}", mark.line + 1 if mark else 1) from None
    finally:
        loader.dispose()


def dump(values: dict) -> str:
    """Write values as YAML that :func:`parse` reads back."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


class _Refused(yaml.MarkedYAMLError):
    """YAML that is not accepted in a configuration; ``at`` is the node or event with the place."""

    def __init__(self, problem: str, at):
        super().__init__(problem=problem, problem_mark=at.start_mark)
        self.reason = problem
        self.line = at.start_mark.line + 1


class _Loader(yaml.SafeLoader):
    """Composes nodes within the limits."""

    def __init__(self, text: str):
        super().__init__(text)
        self.count = 0
        self.depth = 0

    def compose_node(self, parent, index):
        self.count += 1
        self.depth += 1
        _check_limits(self.count, self.depth, self.peek_event())
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Dumper(yaml.SafeDumper):
    """Quotes text that the loader would read as a number."""


_EXPONENT = re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$")
for kind in (_Loader, _Dumper):
    kind.add_implicit_resolver(f"{_TAG}float", _EXPONENT, list("-+0123456789"))
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _SCALARS]
    for first, resolvers in _Loader.yaml_implicit_resolvers.items()
}


class _Constructor:
    """Values of nodes. An alias is constructed again wherever it is used, so that the limits bound the whole."""

    def __init__(self, loader: _Loader, lines: Lines):
        self.loader = loader
        self.lines = lines
        self.count = 0
        self.characters = 0

    def construct(self, node: yaml.Node, keys: tuple[str, ...] | None, depth: int) -> Any:
        """Value of a node; ``keys`` lead to it, ``None`` inside a list."""
        self.count += 1
        _check_limits(self.count, depth, node)
        if isinstance(node, yaml.MappingNode):
            _check_tag(node, f"{_TAG}map")
            return dict(self._items(node, keys, depth))
        if isinstance(node, yaml.SequenceNode):
            _check_tag(node, f"{_TAG}seq")
            return [self.construct(item, None, depth + 1) for item in node.value]
        return self._scalar(node)

    def _items(self, node: yaml.MappingNode, keys: tuple[str, ...] | None, depth: int) -> Iterator[tuple[Any, Any]]:
        first: dict[Any, int] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _Refused("a key must be text", key_node)
            key, line = self._scalar(key_node), key_node.start_mark.line + 1
            here = None if keys is None else (*keys, str(key))
            if key in first:
                path = ".".join(here or (str(key),))
                raise _Refused(f"{shortened(path)}: duplicate key, first given in line {first[key]}", key_node)
            first[key] = line
            if here is not None:
                self.lines[here] = line
            yield key, self.construct(value_node, here, depth + 1)

    def _scalar(self, node: yaml.Node) -> Any:
        _check_tag(node, *_SCALARS)
        self.characters += len(node.value)
        if self.characters > MAX_BYTES:
            raise _Refused(f"more than {MAX_BYTES:,} characters, counting those that aliases repeat", node)
        text = shortened(node.value, 40)
        if node.tag in _NUMBERS and len(node.value) > MAX_DIGITS:
            raise _Refused(f"the number {text} has more than {MAX_DIGITS} characters", node)
        try:
            value = self.loader.construct_object(node)
        except (ValueError, LookupError):  # text that does not suit its tag
            raise _Refused(f"{text!r} cannot be read as {node.tag.removeprefix(_TAG)}", node) from None
        if isinstance(value, str) and re.search("[\ud800-\udfff]", value):
            raise _Refused("an escape sequence that is not a character", node)
        if isinstance(value, int) and abs(value) >= 2**63:
            raise _Refused(f"the number {text} is too large", node)
        return value


def _check_tag(node: yaml.Node, *accepted: str) -> None:
    if node.tag not in accepted:
        raise _Refused(f"the tag {shortened(node.tag)} is not accepted", node)


def _check_limits(count: int, depth: int, at) -> None:
    if depth > MAX_DEPTH:
        raise _Refused(f"more than {MAX_DEPTH} levels of mappings and lists, or an alias of a value inside itself", at)
    if count > MAX_VALUES:
        raise _Refused(f"more than {MAX_VALUES:,} values, counting those that aliases repeat", at)
