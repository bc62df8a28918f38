"""Convolutions of ``pets_cpu`` as XLA and as PyTorch compute them: docs/results/convolutions.md.

``KERAS_BACKEND=jax python -m benchmarks.convolutions`` explains what training with JAX on a CPU costs: neither this
project nor Keras is between the libraries and the measurement.
"""

import collections
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from unet import config
from unet.backend import use_backend
from unet.benchmark.measuring import markdown_table, write

RESULTS = Path(__file__).parent.parent / "docs" / "results" / "convolutions.json"
ROUNDS = 9
INTRODUCTION = """\
# Convolutions on a CPU, XLA and PyTorch

Time that JAX {jax} takes, compiled by XLA, divided by that of PyTorch {torch}, for the 3×3 convolutions of `pets_cpu`
with 16 images of 128×128 in float32, on {device} ({cores} cores). Both take turns, channels last; medians of {rounds}
rounds. The last row weights them by the number of such layers.
Written by `KERAS_BACKEND=jax python -m benchmarks.convolutions`.

"""


@dataclass
class Measurement:
    """Median times in milliseconds of all layers of one shape."""

    side: int
    """Height and width of the map in pixels."""
    inputs: int
    outputs: int
    layers: int
    """Number of layers of this shape."""
    xla: list[float]
    """One layer: forward, gradient of the input, gradient of the kernel."""
    torch: list[float]
    """The same."""

    @property
    def ratios(self) -> list[float]:
        """Of each of the three, and of their sum."""
        return [a / b for a, b in zip((*self.xla, sum(self.xla)), (*self.torch, sum(self.torch)), strict=True)]


def layers(batch: int) -> list[tuple[tuple[int, int, int, int], int]]:
    """Shapes ``(batch, side, inputs, outputs)`` of the 3×3 convolutions, and the number of layers with each."""
    from unet.model import from_config

    network = from_config(config.load("pets_cpu"), 3, fixed_size=True)
    found = [layer for layer in network.layers if getattr(layer, "kernel_size", None) == (3, 3)]
    counted = collections.Counter((batch, one.input.shape[1], one.input.shape[-1], one.filters) for one in found)
    return sorted(counted.items(), reverse=True)


def passes(batch: int, side: int, inputs: int, outputs: int) -> dict[str, list[Callable]]:
    """Functions that return the result of a convolution, the gradient of its input, and that of its kernel."""
    import jax
    import torch

    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(batch, side, side, channels)).astype("float32") for channels in (inputs, outputs)]
    kernel = rng.normal(size=(3, 3, inputs, outputs)).astype("float32")

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    x, dy, weight = map(jax.numpy.asarray, (*maps, kernel))
    compiled = [
        jax.jit(convolve),
        jax.jit(lambda x, dy: jax.vjp(lambda x: convolve(x, weight), x)[1](dy)[0]),
        jax.jit(lambda x, dy: jax.vjp(lambda kernel: convolve(x, kernel), weight)[1](dy)[0]),
    ]
    arguments = [(x, weight), (x, dy), (x, dy)]
    image, upstream = (torch.tensor(array).permute(0, 3, 1, 2) for array in maps)
    filters = torch.tensor(kernel).permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)

    def gradient(of_image: bool):
        found = torch.ops.aten.convolution_backward(
            upstream, image, filters, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [of_image, not of_image, False]
        )
        return found[0 if of_image else 1]

    return {
        "xla": [lambda f=f, a=a: jax.block_until_ready(f(*a)) for f, a in zip(compiled, arguments, strict=True)],
        "torch": [
            lambda: torch.nn.functional.conv2d(image, filters, padding=1),
            lambda: gradient(True),
            lambda: gradient(False),
        ],
    }


def measure(shape: tuple[int, int, int, int], count: int) -> Measurement:
    steps, times = passes(*shape), collections.defaultdict(list)
    for index in range(1 + ROUNDS):  # one to warm up
        for library, functions in steps.items():
            for number, function in enumerate(functions):
                start = time.perf_counter()
                function()
                if index:
                    times[library, number].append(1000 * (time.perf_counter() - start))
    xla, theirs = ([statistics.median(times[library, number]) for number in range(3)] for library in ("xla", "torch"))
    return Measurement(*shape[1:], layers=count, xla=xla, torch=theirs)


def as_markdown(found: list[Measurement], environment: dict) -> str:
    totals = [
        [sum(one.layers * getattr(one, library)[i] for one in found) for i in range(3)] for library in ("xla", "torch")
    ]
    whole = Measurement(0, 0, 0, sum(one.layers for one in found), *totals)
    rows = [
        [f"{one.side}×{one.side}, {one.inputs} → {one.outputs}" if one.side else "all", str(one.layers)]
        + [f"{ratio:.1f}" for ratio in one.ratios]
        for one in (*found, whole)
    ]
    titles = ["map, channels", "layers", "forward", "gradient of the input", "of the kernel", "all three"]
    return "\n".join(
        [
            INTRODUCTION.format(
                **{name: environment["versions"][name] for name in ("jax", "torch")},
                device=environment["device"],
                cores=environment["cpu_count"],
                rounds=ROUNDS,
            )
            + "\n".join(markdown_table(titles, rows, left=1)),
            "",
        ]
    )


def main():
    use_backend()
    from unet.runs import environment

    found = [measure(shape, count) for shape, count in layers(16)]
    machine = environment()
    write(RESULTS, machine, found, as_markdown(found, machine))
    print(RESULTS.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
