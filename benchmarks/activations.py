"""Size and time of exported files that return class ids, relative to those that return logits or probabilities.

``python -m benchmarks.activations RUN`` exports a run to ONNX and LiteRT with every activation, and lets the files take
turns on the same image.
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from unet import console

ROUNDS = 40


def main(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A trained run.")],
    side: Annotated[int, typer.Option(help="Height and width of the image in pixels.")] = 512,
):
    """Print bytes of file and output, and the median time of one image, for each format and activation."""
    from unet.backend import use_backend

    use_backend()
    from unet.ablation.report.statistics import time_ratio
    from unet.console import say
    from unet.export import export
    from unet.formats import load_network
    from unet.formats.base import ACTIVATIONS
    from unet.runs import Run

    image = np.random.default_rng(0).integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    with tempfile.TemporaryDirectory() as folder:
        for format in ("onnx", "litert"):
            networks, sizes = {}, {}
            for activation in ACTIVATIONS:
                file, entry = export(Run.open(run), format, activation=activation, out=Path(folder, activation))
                networks[activation], sizes[activation] = load_network(file), entry["bytes"]
            outputs = {activation: network(image) for activation, network in networks.items()}
            times: dict[str, list[float]] = {activation: [] for activation in networks}
            order = np.random.default_rng(0)
            for _ in range(ROUNDS):
                for activation in order.permutation(ACTIVATIONS):
                    start = time.perf_counter()
                    networks[activation](image)
                    times[activation].append(time.perf_counter() - start)
            for activation in ACTIVATIONS:
                ratio = time_ratio(times["classes"], times[activation])
                say(
                    f"{format}, {activation}: file {sizes[activation]:,} bytes, output {outputs[activation].nbytes:,} "
                    f"bytes, {1e3 * np.median(times[activation]):.1f} ms; class ids take {ratio.value:.3f} "
                    f"[{ratio.low:.3f}, {ratio.high:.3f}] of this time"
                )


if __name__ == "__main__":
    console.run(lambda: typer.run(main))
