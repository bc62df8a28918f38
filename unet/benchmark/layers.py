"""Time and memory of the upsamplers, forward and backward, compared with PyTorch's operations in the same process.

An upsampler alternates with its counterpart in PyTorch and with ``nearest``. On a CPU every upsampler is measured in
processes of its own: one for time, and one for the memory of each shape. There, absolute times depend on the machine,
so ratios are reported; on a GPU milliseconds as well.
"""

import contextlib
import functools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from unet.benchmark.measuring import fresh_process, markdown_table
from unet.upsamplers import UPSAMPLERS

Shape = tuple[int, int, int, int]
SHAPES: tuple[Shape, ...] = ((8, 64, 64, 64), (2, 256, 256, 32))
"""Shapes ``(B, h, w, C)`` of the low-resolution map, from the middle and the end of a decoder."""
GPU_SHAPES: tuple[Shape, ...] = ((64, 64, 64, 64), (16, 256, 256, 32))
"""The same on a GPU, where maps must be larger than its cache."""
GPU_CALLS = 10
"""Calls on a GPU that are timed together: waiting for one takes as long as a fast upsampler."""

EXACT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1", "TF_ONEDNN_USE_SYSTEM_ALLOCATOR": "1"}
"""Variables with which glibc and TensorFlow return all large memory that is freed, so that a peak can be measured."""

OPTIONS: dict[str, dict[str, dict]] = {
    "bilinear": {"bilinear": {}, "bilinear, align_corners": {"align_corners": True}},
    "conv_transpose": {f"conv_transpose, kernel {size}": {"kernel_size": size} for size in (2, 3, 4)},
}
"""Variants of the upsamplers that are measured with more than their default options."""


def variants() -> dict[str, tuple[str, dict]]:
    """Registry name and options of every variant, by its name in tables."""
    return {
        variant: (name, options) for name in UPSAMPLERS for variant, options in OPTIONS.get(name, {name: {}}).items()
    }


@dataclass
class Measurement:
    """Time and memory of one upsampler on one shape; times are medians, ratios are medians of the ratios in a round."""

    upsampler: str
    shape: Shape
    rule_ms: float
    """Milliseconds of the bare rule's forward and backward pass on C channels (transposed convolution: C to C)."""
    rule_by_torch: float | None
    """``rule_ms`` divided by the time of PyTorch's operation; ``None`` if there is none."""
    rule_by_nearest: float
    """``rule_ms`` divided by the time of ``nearest``."""
    step_by_nearest: float
    """Time of the upsampler with its projection from C to C/2 channels, as in a decoder, divided by that of nearest."""
    peak_mib: float | None = None
    """Peak memory of the bare rule's forward and backward pass beyond its inputs."""
    output_mib: float = 0.0
    """Memory of the output alone."""
    rounds: list[float] = field(default_factory=list)
    """``rule_ms`` of every round."""


@dataclass(frozen=True)
class Passes:
    """Forward and backward pass of one upsampler.

    Attributes:
        start: Starts one pass of each kind; returns the results.
        wait: Waits for the results.
        program: What XLA compiled, on JAX.
    """

    start: Callable[[], Any]
    wait: Callable[[Any], None]
    program: Any = None

    def __call__(self, count: int = 1) -> None:
        """Take ``count`` passes of each kind, and wait for the last."""
        for _ in range(count):
            found = self.start()
        self.wait(found)


def measure(name: str, shape: Shape, repeats: int, jit: bool, on_gpu: bool = False) -> Measurement:
    """Time one variant on one shape."""
    count = GPU_CALLS if on_gpu else 1
    rule, theirs = _step(name, shape, False, jit), _counterpart(name, shape)
    steps = {
        "rule": rule,
        "nearest": rule if name == "nearest" else _step("nearest", shape, False, jit),
        "step": _step(name, shape, True, jit),
    }
    steps["nearest step"] = steps["step"] if name == "nearest" else _step("nearest", shape, True, jit)
    if theirs:
        steps["theirs"] = theirs
    for step in steps.values():
        step()
    rounds: list[dict[str, float]] = []
    for _ in range(repeats):
        seconds = {}
        for key, step in steps.items():
            step()  # refills the caches
            start = time.perf_counter()
            step(count)
            seconds[key] = (time.perf_counter() - start) / count
        rounds.append(seconds)

    def ratio(over, under):
        return statistics.median(seconds[over] / seconds[under] for seconds in rounds)

    times = [1000 * seconds["rule"] for seconds in rounds]
    return Measurement(
        name,
        shape,
        rule_ms=statistics.median(times),
        rule_by_torch=ratio("rule", "theirs") if theirs else None,
        rule_by_nearest=ratio("rule", "nearest"),
        step_by_nearest=ratio("step", "nearest step"),
        rounds=times,
    )


def measure_memory(name: str, shape: Shape, jit: bool, on_gpu: bool) -> tuple[float | None, float]:
    """Peak memory and size of the output in MiB; on a CPU in a process started with ``EXACT``."""
    step = _step(name, shape, False, jit)
    step()  # compiles it, and libraries choose their algorithms
    peak = _peak_on_gpu(step) if on_gpu else _peak_on_cpu(step)
    batch, h, w, channels = shape
    if variants()[name][0] in ("pixel_shuffle", "bilinear_additive"):
        channels //= 4
    return peak, batch * 4 * h * w * channels * 4 / 2**20


def run(
    names: list[str], shapes: tuple[Shape, ...], repeats: int, jit: bool, on_gpu: bool
) -> Iterator[list[Measurement]]:
    """Measure the variants called ``names`` one after the other, each on every shape.

    On a GPU, whose memory does not depend on what was measured before, they share a process.
    """
    from unet.console import track

    with fresh_process() if on_gpu else contextlib.nullcontext() as common:

        def worker(**environment: str):
            return contextlib.nullcontext(common) if common else fresh_process(**environment)

        for name in track(names, len(names), "measuring"):
            with worker() as process:
                found = [process.submit(measure, name, shape, repeats, jit, on_gpu).result() for shape in shapes]
            for one in found:
                with worker(**EXACT) as process:
                    one.peak_mib, one.output_mib = process.submit(measure_memory, name, one.shape, jit, on_gpu).result()
            yield found


def _layer(name: str, channels: int, projected: bool):
    """The upsampler, not built yet, and its output channels."""
    import keras

    from unet import upsamplers

    registered, options = variants()[name]
    filters = channels // 2 if projected else None
    if not projected and registered == "conv_transpose":
        filters = channels
    keras.utils.set_random_seed(0)
    layer = upsamplers.build(registered, filters, seed=0, **options)
    return layer, layer.output_channels(channels)


def _argmax(batch: int, h: int, w: int, channels: int) -> np.ndarray:
    """Positions of the maxima of random 2×2 windows, int32 ``(B, h, w, C)``."""
    cells = np.random.default_rng(0).integers(0, 4, size=(batch, h, w, channels), dtype="int32")
    rows, columns = 2 * np.arange(h)[:, None, None] + cells // 2, 2 * np.arange(w)[:, None] + cells % 2
    return (rows * 2 * w + columns).astype("int32")


def _inputs(name: str, shape: Shape, projected: bool) -> tuple:
    """Layer, and x, skip, argmax and upstream gradient as arrays on the device."""
    import keras

    batch, h, w, channels = shape
    layer, out = _layer(name, channels, projected)
    upsampled = (batch, 2 * h, 2 * w, out)
    x, dy = keras.random.normal(shape, seed=0), keras.random.normal(upsampled, seed=2)
    skip = keras.random.normal(upsampled, seed=1) if layer.needs_skip else None
    argmax = keras.ops.convert_to_tensor(_argmax(batch, h, w, out)) if layer.needs_argmax else None
    layer.build(*(None if tensor is None else tuple(tensor.shape) for tensor in (x, skip, argmax)))
    return layer, x, skip, argmax, dy


def _step(name: str, shape: Shape, projected: bool, jit: bool) -> Passes:
    """Forward and backward pass with the gradients of inputs and weights, on the backend in use."""
    import keras

    layer, x, skip, argmax, dy = _inputs(name, shape, projected)
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        from unet.gradients import fusing

        @functools.partial(tf.function, jit_compile=jit, autograph=False)
        def passes(x, skip, dy):
            sources = [x] if skip is None else [x, skip]
            with tf.GradientTape() as tape:
                for source in sources:
                    tape.watch(source)
                with fusing():  # as in training
                    y = layer(x, skip, argmax)
            return y, tape.gradient(y, [*sources, *layer.trainable_variables], output_gradients=dy)

        def read(found):
            y, slopes = found
            y[0, 0, 0, 0].numpy(), slopes[0][0, 0, 0, 0].numpy()  # waits for a GPU

        return Passes(lambda: passes(x, skip, dy), read)

    if backend == "jax":
        import jax

        weights = [variable.value for variable in layer.trainable_variables]

        def passes(x, skip, weights, argmax, dy):
            def call(x, skip, weights):
                return layer.stateless_call(weights, [], x, skip, argmax)[0]

            y, pull = jax.vjp(call, x, skip, weights)
            return y, pull(dy)

        compiled = jax.jit(passes).lower(x, skip, weights, argmax, dy).compile()
        return Passes(lambda: compiled(x, skip, weights, argmax, dy), jax.block_until_ready, compiled)

    sources = [source.requires_grad_() for source in (x, skip) if source is not None]

    def backward():
        for source in sources:
            source.grad = None
        layer.zero_grad()
        layer(x, skip, argmax).backward(dy)

    return Passes(backward, _synchronize)


def _synchronize(_) -> None:
    """Wait for PyTorch's GPU."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _counterpart(name: str, shape: Shape) -> Passes | None:
    """The same computation with PyTorch's operations, channels first; ``None`` if PyTorch has none."""
    try:
        import torch
        import torch.nn.functional as F
    except ImportError:
        return None
    registered, options = variants()[name]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    batch, h, w, channels = shape
    _, out = _layer(name, channels, False)
    x = torch.randn(batch, channels, h, w, device=device, requires_grad=True)
    dy = torch.randn(batch, out, 2 * h, 2 * w, device=device)
    size = options.get("kernel_size", 3)
    weight = torch.randn(channels, channels, size, size, device=device, requires_grad=True)
    if registered == "conv_transpose":
        padding, output_padding = {2: (0, 0), 3: (1, 1), 4: (1, 0)}[size]

        def forward():
            return F.conv_transpose2d(x, weight, stride=2, padding=padding, output_padding=output_padding)

    elif registered == "resize_conv":

        def forward():
            return F.conv2d(F.interpolate(x, scale_factor=2), weight, padding=1)

    elif registered == "max_unpool":
        positions = _argmax(batch, h, w, channels).transpose(0, 3, 1, 2)
        indices = torch.tensor(positions, dtype=torch.int64, device=device).contiguous()

        def forward():
            return F.max_unpool2d(x, indices, [2, 2])

    elif registered == "pixel_shuffle":

        def forward():
            return F.pixel_shuffle(x, 2)

    elif registered in ("nearest", "bilinear", "bicubic"):
        corners = None if registered == "nearest" else options.get("align_corners", False)

        def forward():
            return F.interpolate(x, scale_factor=2, mode=registered, align_corners=corners)

    else:
        return None

    def backward():
        x.grad = weight.grad = None
        forward().backward(dy)

    return Passes(backward, _synchronize)


def _peak_on_gpu(step: Passes) -> float:
    """Largest memory of a step beyond its inputs in MiB; on JAX, that of the compiled program."""
    import keras

    if keras.backend.backend() == "jax":
        sizes = step.program.memory_analysis()
        return (sizes.temp_size_in_bytes + sizes.output_size_in_bytes) / 2**20
    if keras.backend.backend() == "torch":
        import torch

        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - before) / 2**20
    import tensorflow as tf

    tf.config.experimental.reset_memory_stats("GPU:0")
    before = tf.config.experimental.get_memory_info("GPU:0")["current"]
    step()
    return (tf.config.experimental.get_memory_info("GPU:0")["peak"] - before) / 2**20


def _peak_on_cpu(step: Passes) -> float | None:
    """Growth of the process' resident memory during a step in MiB, on Linux; ``None`` on other systems."""
    if not os.path.exists("/proc/self/clear_refs"):
        return None

    def status(key):
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) for line in file if line.startswith(key)) / 1024

    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # resets the high-water mark
    except OSError:
        return None
    before = status("VmRSS:")
    step()
    return status("VmHWM:") - before


def table(found: list[Measurement], on_gpu: bool) -> tuple[list[str], list[list[str]]]:
    """Titles and rows of the table: ratios, and milliseconds on a GPU."""
    titles = ["upsampler", "B, h, w, C", "/ torch", "/ nearest", "decoder step / nearest", "peak MiB", "result MiB"]
    rows = []
    for one in found:
        ratios = (one.rule_by_torch, one.rule_by_nearest, one.step_by_nearest)
        row = [one.upsampler, ", ".join(map(str, one.shape)), *("–" if r is None else f"{r:.2f}" for r in ratios)]
        row += ["–" if one.peak_mib is None else f"{one.peak_mib:.0f}", f"{one.output_mib:.0f}"]
        rows.append([*row, f"{one.rule_ms:.2f}"] if on_gpu else row)
    return [*titles, "ms"] if on_gpu else titles, rows


def as_markdown(found: list[Measurement], environment: dict, jit: bool, on_gpu: bool) -> str:
    """Table and its explanation as Markdown."""
    titles, rows = table(found, on_gpu)
    versions = ", ".join(
        f"{name} {environment['versions'][name]}"
        for name in ("keras", "tensorflow", "tensorflow-cpu", "jax", "torch")
        if name in environment["versions"]
    )
    lines = [
        "# What the upsamplers cost in time and memory",
        "",
        f"Forward and backward pass in float32 on {environment['device']} ({environment['cpu_count']} cores), backend "
        f"{environment['backend']} {'with' if jit else 'without'} XLA; {versions}.",
        "Written by `unet benchmark`.",
        "",
        "- **/ torch**: time of the bare rule divided by that of PyTorch's operation (channels first, eager), measured",
        "  alternately in the same process; the median of the ratios. Below 1 is faster; – if PyTorch has no such",
        "  operation.",
        "- **/ nearest**: divided by the time of the bare nearest neighbour. **decoder step / nearest**: both with the",
        "  shared projection from C to C/2 channels, as in a decoder.",
        "- **peak MiB**: largest memory of the bare rule's two passes beyond their inputs, gradients included;",
        "  **result MiB**: the result alone.",
        "",
        *markdown_table(titles, rows, left=2),
    ]
    return "\n".join(lines) + "\n"
