"""How closely every upsampler agrees with an independent reference.

``test_parity.py`` asserts the cases. ``python -m benchmarks.parity`` measures them on the backend in use and writes
``docs/results/parity.json`` and the table ``docs/results/parity.md``; the figures of other backends are kept.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np
import torch
import torch.nn.functional as F
from keras import ops

from benchmarks import references
from benchmarks.gradients import gradient
from unet import upsamplers

SIZES = [(6, 10), (5, 7), (1, 1), (2, 3)]
"""Height and width of the skip in pixels; the map is half as large, rounded up."""


@dataclass(frozen=True)
class Case:
    """An upsampler with options, and the reference it is compared with."""

    name: str
    options: tuple[tuple[str, object], ...]
    reference: str
    expected: Callable[[upsamplers.Upsampler, torch.Tensor, np.ndarray, np.ndarray], torch.Tensor | np.ndarray]
    """Maps the layer (for its weights), x as a float64 tensor (B, C, h, w), skip and argmax to the full output."""
    tolerance: float = 1e-5

    def __str__(self):
        options = ", ".join(f"{key}={value}" for key, value in self.options)
        return f"{self.name} ({options})" if options else self.name


def nchw(x) -> torch.Tensor:
    return torch.tensor(np.asarray(x, "float64")).permute(0, 3, 1, 2)


def nhwc(x: torch.Tensor) -> np.ndarray:
    return x.permute(0, 2, 3, 1).detach().numpy()


def interpolated(**options):
    return lambda layer, x, skip, argmax: F.interpolate(x, scale_factor=2, **options)


def unpooled(layer, x, skip, argmax):
    return F.max_unpool2d(
        x, torch.tensor(argmax.astype("int64")).permute(0, 3, 1, 2), [2, 2], output_size=skip.shape[1:3]
    )


def on_bed_of_nails(layer, x, skip, argmax):
    nail = torch.zeros(x.shape[1], 1, 2, 2, dtype=x.dtype)
    nail[:, :, 0, 0] = 1
    return F.conv_transpose2d(x, nail, stride=2, groups=x.shape[1])


def conv_transposed(padding, output_padding=0):
    def expected(layer, x, skip, argmax):
        kernel, bias = (torch.tensor(w.astype("float64")) for w in layer.get_weights())  # (k, k, out, in)
        options = {"stride": 2, "padding": padding, "output_padding": output_padding}
        return F.conv_transpose2d(x, kernel.permute(3, 2, 0, 1), bias, **options)

    return expected


def resized_and_convolved(layer, x, skip, argmax):
    kernel, bias = (torch.tensor(w.astype("float64")) for w in layer.refine.get_weights())
    return F.conv2d(F.interpolate(x, scale_factor=2), kernel.permute(3, 2, 0, 1), bias, padding="same")


def shuffled(layer, x, skip, argmax):
    order = [c + q * (x.shape[1] // 4) for c in range(x.shape[1] // 4) for q in range(4)]
    return F.pixel_shuffle(x[:, order], 2)


def added(layer, x, skip, argmax):
    y = F.interpolate(x, scale_factor=2, mode="bilinear")
    return y.unflatten(1, (-1, 4)).sum(2)


def stated(function, *parts):
    """Apply a plain numpy implementation with the weights of the layer's ``parts`` and its options."""

    def expected(layer, x, skip, argmax):
        weights = {part: [w.astype("float64") for w in getattr(layer, part).get_weights()] for part in parts}
        weights = {part: w if len(w) > 1 else w[0] for part, w in weights.items()}
        options = {key: getattr(layer, key) for key in ("k_up", "groups", "style") if hasattr(layer, key)}
        if layer.needs_skip:
            options["skip"] = skip.astype("float64")
        return function(nhwc(x), **weights, **options)

    return expected


SAPA = ("query_norm", "query", "key_norm", "key")
FADE = ("skip_compressor", "compressor", "encoder", "gate")
TORCH = f"torch {torch.__version__.split('+')[0]}"
CASES = [
    Case("nearest", (), TORCH, interpolated()),
    Case("bilinear", (), TORCH, interpolated(mode="bilinear")),
    Case("bilinear", (("align_corners", True),), TORCH, interpolated(mode="bilinear", align_corners=True)),
    Case("bicubic", (), TORCH, interpolated(mode="bicubic")),
    Case("bicubic", (("align_corners", True),), TORCH, interpolated(mode="bicubic", align_corners=True)),
    Case("bed_of_nails", (), TORCH, on_bed_of_nails),
    Case("max_unpool", (), TORCH, unpooled),
    Case("conv_transpose", (), TORCH, conv_transposed(0)),
    Case("conv_transpose", (("kernel_size", 3),), TORCH, conv_transposed(0)),
    Case("conv_transpose", (("kernel_size", 3), ("padding", 1)), TORCH, conv_transposed(1, 1)),
    Case("conv_transpose", (("kernel_size", 4),), TORCH, conv_transposed(1)),
    Case("resize_conv", (), TORCH, resized_and_convolved),
    Case("pixel_shuffle", (), TORCH, shuffled),
    Case("bilinear_additive", (), TORCH, added),
    Case("carafe", (), "formula in numpy", stated(references.carafe, "compressor", "encoder")),
    Case(
        "carafe", (("k_up", 3), ("groups", 2)), "formula in numpy", stated(references.carafe, "compressor", "encoder")
    ),
    *(
        Case(
            "dysample",
            (("style", style), ("dynamic_scope", dynamic)),
            "formula in numpy",
            stated(references.dysample, "offset", *(["scope"] if dynamic else [])),
        )
        for style in ("lp", "pl")
        for dynamic in (False, True)
    ),
    Case("sapa", (), "formula in numpy", stated(references.sapa, *SAPA)),
    Case("fade", (), "formula in numpy", stated(references.fade, *FADE)),
]


def differences(case: Case, size: tuple[int, int]) -> tuple[float, float | None]:
    """Largest absolute difference of the values, and of the gradient of x where the reference is PyTorch's."""
    rng = np.random.default_rng(0)
    height, width = size
    channels = 8
    x = rng.normal(size=(2, -(-height // 2), -(-width // 2), channels)).astype("float32")
    skip = rng.normal(size=(2, height, width, channels)).astype("float32")
    _, argmax = upsamplers.MaxPoolWithArgmax()(skip)
    options = dict(case.options)
    layer = upsamplers.build(case.name, channels if case.name == "conv_transpose" else None, **options)
    layer(x, skip, argmax)
    layer.set_weights([rng.normal(size=w.shape).astype("float32") * 0.3 for w in layer.weights])
    weights = rng.normal(size=layer(x, skip, argmax).shape).astype("float32")

    source = nchw(x).requires_grad_()
    theirs = case.expected(layer, source, skip, ops.convert_to_numpy(argmax))
    ours = ops.convert_to_numpy(layer(x, skip, argmax))
    if isinstance(theirs, np.ndarray):
        return float(np.abs(ours - theirs[:, :height, :width]).max()), None
    theirs = theirs[:, :, :height, :width]
    (expected,) = torch.autograd.grad((theirs * nchw(weights)).sum(), source)
    slope = gradient(lambda x: ops.sum(layer(x, skip, argmax) * ops.convert_to_tensor(weights)), x)
    values = float(np.abs(ours - nhwc(theirs)).max())
    return values, float(np.abs(slope - nhwc(expected)).max())


def measure() -> dict[str, dict]:
    """Largest differences over all sizes, by case."""
    found = {}
    for case in CASES:
        pairs = [differences(case, size) for size in SIZES]
        slopes = [slope for _, slope in pairs if slope is not None]
        found[str(case)] = {
            "reference": case.reference,
            "values": max(value for value, _ in pairs),
            "gradient": max(slopes) if slopes else None,
        }
    return found


def table(figures: dict[str, dict]) -> str:
    """Markdown table of all measured backends; upsamplers without a reference are listed too."""
    backends = [name for name in ("tensorflow", "jax", "torch") if name in figures]
    titles = [f"{name}, {what}" for name in backends for what in ("values", "gradient")]
    sizes = ", ".join(f"{height}×{width}" for height, width in SIZES)
    lines = [
        "# Parity",
        "",
        "Largest absolute difference of each upsampler's values, and of the gradient of its input, from an independent",
        f"reference computed in float64, over normally distributed maps for skips of {sizes} pixels.",
        "All weights are drawn anew, so that no path is idle. Measured in float32 on a CPU by `make parity`. Gradients",
        "of upsamplers without a counterpart in PyTorch are tested against numerical differentiation.",
        "",
        f"| upsampler | reference | {' | '.join(titles)} |",
        f"|---|---|{'---:|' * len(titles)}",
    ]
    for case in CASES:
        cells = [figures[name].get(str(case), {}).get(what) for name in backends for what in ("values", "gradient")]
        shown = ["–" if cell is None else f"{cell:.0e}" if cell else "0" for cell in cells]
        lines.append(f"| `{case}` | {case.reference} | {' | '.join(shown)} |")
    for name in upsamplers.UPSAMPLERS:
        if name not in {case.name for case in CASES}:
            lines.append(f"| `{name}` | none | {' | '.join('–' * len(titles))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure on the backend in use and write the table."""
    import json

    from unet.files import write_json, write_text

    path = Path(__file__).parents[1] / "docs" / "results" / "parity.json"
    figures = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    figures[keras.backend.backend()] = measure()
    write_json(path, figures)
    write_text(path.with_suffix(".md"), table(figures))
    print(path.with_suffix(".md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
