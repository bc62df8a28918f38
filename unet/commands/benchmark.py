"""The command ``unet benchmark``."""

from pathlib import Path
from typing import Annotated

import typer


def main(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="upsamplers: forward and backward pass of every layer.")],
    only: Annotated[
        str, typer.Option(help="Measure only variants whose names start with this, as in conv_transpose.")
    ] = "",
    shape: Annotated[
        list[str] | None, typer.Option(help="Shape B,h,w,C of the low-resolution map; may be repeated.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Number of rounds; the median is reported.")] = 15,
    jit: Annotated[bool | None, typer.Option(help="Compile with XLA. Default: on a GPU, and always on JAX.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write the measurements to this .json file, and the table to .md next to it.")
    ] = None,
):
    """Measure the time of every upsampler, compared with PyTorch's operation and with nearest, and its memory.

    Every upsampler is measured in a process of its own.

    unet benchmark upsamplers --output docs/results/upsamplers.json
    """
    from unet.backend import use_backend
    from unet.console import say
    from unet.errors import InputError, nearest

    if what != "upsamplers":
        raise InputError(f"WHAT: {what!r} must be upsamplers{nearest(what, ['upsamplers'])}")
    if output is not None and output.suffix != ".json":
        raise InputError(f"--output: {output} must end in .json; the table is written to .md next to it")
    from unet import benchmark

    shapes = tuple(_shape(text) for text in shape) if shape else benchmark.SHAPES
    names = [name for name in benchmark.variants() if name.startswith(only)]
    if not names:
        raise InputError(f"--only: {only!r} matches none of {', '.join(benchmark.variants())}")
    use_backend()
    from unet.files import write_json, write_text
    from unet.runs import environment
    from unet.tables import rows_table

    machine = environment()
    on_gpu = not machine["device"].startswith("CPU")
    jit = jit if jit is not None else on_gpu or machine["backend"] == "jax"
    found: list[benchmark.Measurement] = []
    for measurements in benchmark.run(names, shapes, repeats, jit):
        found += measurements
        if output is not None:  # after every upsampler, so that nothing measured is lost
            write_json(output, {"environment": machine | {"jit": jit}, "measurements": benchmark.as_json(found)})
            write_text(output.with_suffix(".md"), benchmark.as_markdown(found, machine, jit, on_gpu))
    rows_table(*benchmark.table(found, on_gpu), title=f"{machine['backend']} {'with' if jit else 'without'} XLA")
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
