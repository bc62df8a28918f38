"""Arguments that several commands share, and what the shell completes in them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer


def configurations(incomplete: str) -> list[str]:
    """Complete a configuration: shipped ones by name, YAML files and folders by path."""
    from unet.config import shipped

    folder = Path(incomplete) if incomplete.endswith("/") else Path(incomplete).parent
    matches = [name for name in [*shipped.names(), *_paths(folder)] if name.startswith(incomplete)]
    if len(matches) == 1 and matches[0].endswith("/"):  # a shell appends a space to a single completion
        matches += _paths(Path(matches[0]))
    return matches


def _paths(folder: Path) -> list[str]:
    """YAML files and folders in a folder."""
    here = sorted(folder.glob("[!.]*")) if folder.is_dir() else []
    return [f"{path}/" if path.is_dir() else str(path) for path in here if path.is_dir() or path.suffix == ".yaml"]


Configuration = Annotated[
    Path,
    typer.Argument(
        metavar="CONFIG", help="A YAML file, the name of a shipped one, or a run.", autocompletion=configurations
    ),
]
"""Argument of a command that takes a configuration and nothing else."""


DataPlaces = Annotated[
    list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Where the data are now, as in data.data_dir=pets.")
]
"""Argument of a command that needs the data of a run."""


def settings(incomplete: str) -> list[str]:
    """Complete ``KEY=VALUE``: first the key, then the value if there is a choice."""
    from unet.config import json_schema

    schema = json_schema()
    known = dict(_settings(schema, schema["$defs"]))
    key, equals, _ = incomplete.partition("=")
    if equals:
        return [f"{key}={value}" for value in known.get(key, ())]
    keys = [name for name in known if name.startswith(key)]
    if len(keys) == 1:  # a shell appends a space to a single completion
        return [f"{keys[0]}={value}" for value in ["", *(known[keys[0]] or ["VALUE"])]]
    return [f"{name}=" for name in keys]


def _settings(section: dict, definitions: dict, prefix: str = "") -> Iterator[tuple[str, list[str]]]:
    """Dotted keys in a section of the JSON schema, each with the values to choose from."""
    for name, field in section["properties"].items():
        if name == "base":
            continue
        if "$ref" in field:
            yield from _settings(definitions[field["$ref"].split("/")[-1]], definitions, f"{prefix}{name}.")
            continue
        choices = [value for option in [field, *field.get("anyOf", ())] for value in option.get("enum", ())]
        yield f"{prefix}{name}", ["true", "false"] if field.get("type") == "boolean" else choices


Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Settings to change, as in model.width=16.", autocompletion=settings),
]
"""Argument of a command that builds the network of a configuration."""


Executor = Annotated[str, typer.Option(help="local or ray.")]
"""Option of a command that can use the machines of a cluster."""
Address = Annotated[
    str | None, typer.Option(help="Address of a Ray cluster; default: RAY_ADDRESS, else one is started here.")
]
"""Option that goes with it."""


def check_executor(executor: str) -> None:
    """Check the value of the option ``Executor``.

    Raises:
        InputError: It is not one.
    """
    from unet.errors import InputError, nearest

    executors = ("local", "ray")
    if executor not in executors:
        raise InputError(f"{executor!r} is not one of local, ray{nearest(executor, executors)}", argument="executor")
