"""Measure time and memory of the upsamplers, or of training.

unet benchmark upsamplers

unet benchmark train pets_cpu --against torch
"""

import importlib.util
import itertools
from pathlib import Path
from typing import Annotated

import typer

from unet.commands._arguments import Configuration, Overrides

Output = Annotated[
    Path | None, typer.Option(help="Write the measurements to this .json file, and the table to .md next to it.")
]


def upsamplers(
    only: Annotated[
        list[str] | None,
        typer.Option(help="Measure only variants whose names start with this, as in conv_transpose; may be repeated."),
    ] = None,
    shape: Annotated[
        list[str] | None, typer.Option(help="Shape B,h,w,C of the low-resolution map; may be repeated.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Number of rounds; the median is reported.")] = 15,
    jit: Annotated[bool | None, typer.Option(help="Compile with XLA. Default: on a GPU, and always on JAX.")] = None,
    output: Output = None,
):
    """Measure time and memory of every upsampler.

    Times are compared with PyTorch's operation and with nearest. Every upsampler is measured in a process of its own.

    unet benchmark upsamplers --output docs/results/upsamplers.json
    """
    from unet.backend import use_backend_without_devices
    from unet.errors import InputError

    _check(output)
    from unet.benchmark import layers

    shapes = tuple(_shape(text) for text in shape or ())
    starts = tuple(only or [""])
    names = [name for name in layers.variants() if name.startswith(starts)]
    for start in starts:
        if not any(name.startswith(start) for name in names):
            raise InputError(f"--only: {start!r} matches none of {', '.join(layers.variants())}")
    use_backend_without_devices()
    from unet.benchmark.measuring import device_name, write
    from unet.runs import environment
    from unet.tables import rows_table

    machine = environment() | {"device": device_name()}
    on_gpu = not machine["device"].startswith("CPU")
    shapes = shapes or (layers.GPU_SHAPES if on_gpu else layers.SHAPES)
    jit = jit if jit is not None else on_gpu or machine["backend"] == "jax"
    found: list[layers.Measurement] = []
    for measurements in layers.run(names, shapes, repeats, jit, on_gpu):
        found += measurements
        if output is not None:  # after every upsampler, so that nothing measured is lost
            write(output, machine | {"jit": jit}, found, layers.as_markdown(found, machine, jit, on_gpu))
    rows_table(*layers.table(found, on_gpu), title=f"{machine['backend']} {'with' if jit else 'without'} XLA")
    _say_written(output)


def train(
    path: Configuration,
    overrides: Overrides = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="tensorflow, jax or torch; may be repeated. Default: the one in use.")
    ] = None,
    precision: Annotated[
        list[str] | None, typer.Option(help="Value of training.precision; may be repeated. Default: of CONFIG.")
    ] = None,
    upsampler: Annotated[
        list[str] | None, typer.Option(help="Value of model.upsampler; may be repeated. Default: of CONFIG.")
    ] = None,
    batch_size: Annotated[
        list[int] | None, typer.Option(help="Value of training.batch_size; may be repeated. Default: of CONFIG.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="torch: also measure the network as a plain PyTorch program.")
    ] = None,
    remat: Annotated[bool, typer.Option("--remat", help="Also measure each backend with training.remat.")] = False,
    rounds: Annotated[int, typer.Option(min=1, help="Number of rounds; the median is reported.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps in a round.")] = 10,
    output: Output = None,
):
    """Measure the speed of CONFIG's training step.

    Every combination of the options takes steps on random images. The programs take turns, each in a process of its
    own. No data are needed, and nothing is trained.

    unet benchmark train pets_cpu --backend tensorflow --backend torch --against torch

    unet benchmark train pets --precision float32 --precision mixed_bfloat16 --batch-size 32 --batch-size 64
    """
    from unet import config
    from unet.backend import use_backend_without_devices
    from unet.errors import InputError

    _check(output)
    if against not in (None, "torch"):
        raise InputError(f"{against!r} is not torch", argument="against")
    loaded = config.load(path, overrides or ())
    if loaded.training.batch_size == "auto" and not batch_size:
        raise InputError("training.batch_size: auto needs the data; choose a number by --batch-size")
    default = use_backend_without_devices()["KERAS_BACKEND"]
    _check_installed(backend or [], "backend")
    _check_installed([against] if against else [], "against")
    from unet.benchmark.measuring import write
    from unet.benchmark.train import PLAIN, Case, Measurement, as_markdown, run, table
    from unet.console import track
    from unet.runs import environment
    from unet.tables import rows_table

    programs = [*(backend or [default]), *([PLAIN] if against else [])]
    cases = []
    choices = (precision or [""], upsampler or [""], batch_size or [0])
    for one, layer, size in itertools.product(*choices):
        chosen = {"training.precision": one, "model.upsampler": layer, "training.batch_size": size}
        changes = [f"{key}={value}" for key, value in chosen.items() if value]
        settled = config.load(path, [*(overrides or ()), "loss.class_weights=null", *changes])
        cases += [Case(program, settled) for program in programs]
        if remat:
            cases += [Case(program, settled.with_training(remat=True)) for program in programs if program != PLAIN]
    machine = environment()
    found: list[Measurement] = []
    on_gpu = False
    for found in track(run(cases, rounds, steps), rounds, "measuring"):
        machine["device"] = found[0].device  # this process uses none
        on_gpu = not machine["device"].startswith("CPU")
        if output is not None:  # after every round, so that nothing measured is lost
            write(output, machine, found, as_markdown(found, machine, loaded, on_gpu))
    rows_table(*table(found, on_gpu), title=f"{loaded.name}: speed of training")
    _say_written(output)


def _check_installed(names: list[str], argument: str) -> None:
    from unet.backend import BACKENDS
    from unet.errors import InputError, nearest

    for name in names:
        if name not in BACKENDS:
            raise InputError(f"{name!r} is not one of {', '.join(BACKENDS)}{nearest(name, BACKENDS)}", argument)
        if importlib.util.find_spec(name) is None:
            raise InputError(f"{name} is not installed: pip install '.[{BACKENDS[name]}]'", argument)


def _check(output: Path | None) -> None:
    from unet.errors import InputError

    if output is not None and output.suffix != ".json":
        raise InputError(f"--output: {output} must end in .json; the table is written to .md next to it")


def _say_written(output: Path | None) -> None:
    from unet.console import say

    if output is not None:
        say(f"written: {output}, {output.with_suffix('.md')}")


def _shape(text: str) -> tuple[int, int, int, int]:
    from unet.errors import InputError

    try:
        batch, h, w, channels = (int(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--shape: {text!r} must be four whole numbers B,h,w,C, as 8,64,64,64") from None
    if min(batch, h, w) < 1 or channels < 8 or channels % 8:
        raise InputError(f"--shape: {text!r}: sizes must be positive and C a multiple of 8, for groups and shuffles")
    return batch, h, w, channels


COMMANDS = {"upsamplers": upsamplers, "train": train}
"""The functions of the subcommands, by name."""
