"""How much faster training steps with a frozen encoder are: ``python -m benchmarks.frozen_epochs``.

Steps with and without the freeze alternate, and their processor time is compared, which other programs on the machine
hardly change.
"""

import statistics
import time

import numpy as np

from unet import config
from unet.training import compiles, make_optimizer, make_trainer

STEPS = 10


def main():
    settings = config.load(
        "pets_encoder", ["model.weights=none", "data.size=128", "training.batch_size=16", "training.freeze_epochs=1"]
    )
    trainers = {}
    for frozen in (False, True):
        trainer = trainers[frozen] = make_trainer(settings, ("pet", "background", "border"))
        trainer.compile(optimizer=make_optimizer(settings.training, STEPS), jit_compile=compiles(settings))
        trainer.optimizer.build(trainer.trainable_variables)
        trainer.freeze_encoder(frozen)
    rng = np.random.default_rng(0)
    batch = {
        "image": rng.integers(0, 256, (16, 128, 128, 3), np.uint8),
        "mask": rng.integers(0, 3, (16, 128, 128), np.uint8),
    }
    seconds: dict[bool, list[float]] = {False: [], True: []}
    for index in range(2 + STEPS):  # two to warm up
        for frozen, trainer in trainers.items():
            before = time.process_time()
            trainer.train_on_batch(batch)
            if index >= 2:
                seconds[frozen].append(time.process_time() - before)
    trained, kept = (statistics.median(seconds[frozen]) for frozen in (False, True))
    print(
        f"images per second of processor time: {16 / trained:.1f}, frozen {16 / kept:.1f}, {trained / kept:.2f} times"
    )


if __name__ == "__main__":
    main()
