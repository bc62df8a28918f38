"""List everything that is wrong with a data set before training on it."""

from pathlib import Path
from typing import Annotated

import typer

from unet import backend


def main(
    path: Annotated[Path, typer.Argument(metavar="CONFIG", help="A YAML file.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="As data.data_dir=DIR.")
    ] = None,
):
    """Read every image and mask of CONFIG's data and list all faults and oddities.

    Faults (unreadable image, missing or wrongly sized mask, value out of range) keep the data from being used: exit
    code 2. Oddities (empty mask, near-identical images in train and test) are only told: exit code 0.

    unet check-data configs/pets.yaml data.source=folder data.data_dir=my_data
    """
    backend.use_backend()
    from unet import config, data
    from unet.data import cache, checks
    from unet.errors import InputError

    source = data.make_source(config.load(path, overrides or ()).data)
    problems = cache.inspect(source)
    faults = [problem for problem in problems if problem.fatal]
    oddities = [problem for problem in problems if not problem.fatal]
    for heading, group in (("fault", faults), ("oddity", oddities)):
        for problem in group:
            print(f"{heading}: {problem.kind}: {problem}")
    count = source.count()
    print(f"{count} pairs read; {checks.summary(problems) or 'nothing wrong'}")
    if faults:
        raise InputError(f"{len(faults)} of these are faults: the data cannot be used until they are mended")
