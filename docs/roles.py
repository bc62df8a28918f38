"""Griffe extension: show reST in docstrings, such as ``:class:`~unet.model.Unet```, as links and code on the site."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`(~?)([\w.]+)`")
CODE_BLOCK = re.compile(r"^\.\. code-block:: \w+\n", re.MULTILINE)
EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
"""Griffe shows the sessions of a section with the plural name as code."""
CALL_ARGUMENTS = re.compile(r"(?<=^Call arguments:\n)(?:    .*\n?)+", re.MULTILINE)
ALIGNED = re.compile(r"^(?=\S+(?: \S+)* {2,}\S)", re.MULTILINE)
"""Start of a line in two columns; indented, it is shown as it is."""


def as_markdown(docstring: str) -> str:
    """Translate the reST that docstrings use; a role whose target is not on the site becomes plain code."""
    docstring = ALIGNED.sub("    ", CODE_BLOCK.sub("", docstring))
    docstring = CALL_ARGUMENTS.sub(_as_list, EXAMPLE.sub("Examples:", docstring))
    return ROLE.sub(_link, docstring.replace("``", "`"))


def _as_list(section: re.Match) -> str:
    return re.sub(r"^    (?=\w+: )", "    - ", section[0], flags=re.MULTILINE)


def _link(match: re.Match) -> str:
    short, target = match.groups()
    label = target.rsplit(".", 1)[-1] if short else target
    return f'<autoref identifier="{target}" optional><code>{label}</code></autoref>'


class Roles(griffe.Extension):
    """Rewrites the docstring of every object as it is read."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring:
            obj.docstring.value = as_markdown(obj.docstring.value)
