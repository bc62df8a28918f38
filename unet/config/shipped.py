"""Configurations that come with the package, by name: ``pets_cpu``, ``ablation/upsamplers_cpu``, ``debug/overfit``."""

import os
from pathlib import Path

from unet.errors import InputError, nearest, shortened


def directory() -> Path:
    """Directory of the shipped configurations: in the installed package, or ``configs/`` in a source checkout."""
    package = Path(__file__).parents[1]
    installed = package / "configs"
    return installed if installed.is_dir() else package.parent / "configs"


def names() -> list[str]:
    """List the names of the shipped configurations: paths in :func:`directory`, without ``.yaml``."""
    root = directory()
    return sorted(path.relative_to(root).with_suffix("").as_posix() for path in root.rglob("*.yaml"))


def find(name: str | Path) -> Path | None:
    """Find a shipped configuration by its name, with or without its folder and ``.yaml``; ``None`` if there is none."""
    wanted = Path(name).as_posix().removesuffix(".yaml")
    matches = [known for known in names() if wanted in (known, known.rpartition("/")[2])]
    return directory() / f"{matches[0]}.yaml" if matches else None


def resolve(name: str | Path) -> Path:
    """Find a configuration: an existing file, that of a run directory, or the shipped one of this name (:func:`find`).

    Raises:
        InputError: There is neither; the message gives the closest match and lists the shipped configurations.
    """
    path = Path(name)
    if os.path.isfile(path):
        return path
    if os.path.isfile(of_run := path / "config.yaml"):
        return of_run
    if shipped := find(name):
        return shipped
    if os.path.lexists(path):  # the reader says why it cannot be read
        return path
    local = sorted(str(other) for other in path.parent.glob("[!.]*.yaml")) if os.path.isdir(path.parent) else []
    raise InputError(
        f"{shortened(str(name))}: there is no such file or shipped configuration"
        f"{nearest(str(path), [*local, *names()])} (shipped: {', '.join(names())})"
    )
