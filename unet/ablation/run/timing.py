"""Times of networks on this process's device: training steps, and inference."""

import time

import keras
import numpy as np

from unet import backend
from unet.console import track
from unet.data.batches import Batches
from unet.data.noise import noise
from unet.evaluation import predict_logits
from unet.model import load_saved
from unet.runs import Run
from unet.training import compiles, make_optimizer, make_trainer

BATCHES = (1, 32)
ROUNDS = 40
SECONDS = 20.0
"""Every variant is measured in ROUNDS rounds, or fewer if they take longer than this for each variant."""
FEWEST_ROUNDS = 6
"""With fewer, no order statistics of the ratios of two variants enclose their median with 95 % confidence."""

STEP_SECONDS = 5.0
"""Training steps are timed for about this long after the first one."""


def latency(runs: dict[str, Run]) -> dict:
    """Measure the inference time of trained networks alternately, so that a slow minute affects all of them.

    Every round measures all variants once, in random order.

    Args:
        runs: A finished run by variant.

    Returns:
        ``device``; ``variants``: by name and batch size, ``median_ms`` and ``p95_ms`` of a batch from uint8 images on
        the host to logits on the host, ``rounds``, and ``times_ms``, the time in each round.
    """
    calls = {}
    for variant, run in runs.items():
        network = load_saved(run.best_file)
        network.jit_compile = compiles(run.config)
        images = noise(run.config.data, max(BATCHES), len(run.info.classes)).images
        for batch in BATCHES:
            calls[variant, batch] = (network, images[:batch])
    seconds: dict[tuple[str, int], list[float]] = {key: [] for key in calls}
    for network, images in track(calls.values(), len(calls), "compiling for inference"):
        predict_logits(network, images)
    started, limit = time.monotonic(), SECONDS * len(runs)
    keys, order = list(calls), np.random.default_rng(0)
    for index in track(range(ROUNDS), ROUNDS, "inference times"):
        for key in map(keys.__getitem__, order.permutation(len(keys))):
            network, images = calls[key]
            before = time.perf_counter()
            predict_logits(network, images)
            seconds[key].append(time.perf_counter() - before)
        if index + 1 >= FEWEST_ROUNDS and time.monotonic() - started > limit:
            break
    return {
        "device": backend.device_name(),
        "variants": {variant: {str(batch): _summary(seconds[variant, batch]) for batch in BATCHES} for variant in runs},
    }


def steps(runs: dict[str, Run], count: int = 5) -> dict:
    """Measure training steps on random images: ``{"device": ..., "variants": {name: seconds of a step}}``.

    A variant takes ``count`` steps, of which the first compiles; fewer if they take longer than ``STEP_SECONDS``.
    """
    found = {}
    for variant, run in track(runs.items(), len(runs), "timing a few steps"):
        config = run.config
        batch, classes = config.training.images_per_step, run.info.classes
        split = noise(config.data, count * batch, len(classes))
        trainer = make_trainer(config, classes)
        trainer.compile(optimizer=make_optimizer(config.training, count), jit_compile=compiles(config))
        watch = _Stopwatch()
        trainer.fit(Batches(split, batch, shuffle_seed=0), verbose=0, shuffle=False, callbacks=[watch])
        found[variant] = float(np.median(np.diff(watch.times)))
    return {"device": backend.device_name(), "variants": found}


def _summary(seconds: list[float]) -> dict:
    return {
        "median_ms": 1e3 * float(np.median(seconds)),
        "p95_ms": 1e3 * float(np.percentile(seconds, 95)),
        "rounds": len(seconds),
        "times_ms": [round(1e3 * value, 4) for value in seconds],
    }


class _Stopwatch(keras.callbacks.Callback):
    """Times at which steps ended."""

    def __init__(self):
        super().__init__()
        self.times: list[float] = []

    def on_train_batch_end(self, batch, logs=None):
        float(logs["loss"])  # waits for the device
        self.times.append(time.perf_counter())
        if len(self.times) > 1 and self.times[-1] - self.times[0] > STEP_SECONDS:
            self.model.stop_training = True
