"""Griffe extension: turn reST roles in docstrings (``:class:`~unet.model.Unet```) into links of the site."""

import re
from typing import Any

import griffe

ROLE = re.compile(r":(?:class|func|meth|mod|attr|data):`(~?)([\w.]+)`")


def _link(match: re.Match) -> str:
    short, target = match.groups()
    label = target.rsplit(".", 1)[-1] if short else target
    return f'<autoref identifier="{target}" optional><code>{label}</code></autoref>'


class Roles(griffe.Extension):
    """Rewrites the docstring of every object as it is read; a target without a page becomes plain code."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite one docstring."""
        if obj.docstring:
            obj.docstring.value = ROLE.sub(_link, obj.docstring.value.replace("``", "`"))
