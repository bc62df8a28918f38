"""Cells of a seed differ in their upsamplers alone: they share weights, data order and augmentation."""

import itertools

import numpy as np
import pytest
from keras import ops

from tests.helpers import ROOT, SLOW_BEYOND_TENSORFLOW
from unet import data
from unet.ablation.plan import grid
from unet.data.batches import Batches
from unet.model import from_config
from unet.training import make_trainer
from unet.training.callbacks import EpochSetup
from unet.upsamplers import UPSAMPLERS, Upsampler

pytestmark = SLOW_BEYOND_TENSORFLOW

SETTINGS = [
    *("data.source=shapes", "data.size=[12, 20]", "data.shapes.train=24", "data.shapes.test=2"),
    *("model.block=plain", "model.width=4", "model.depth=2", "model.dropout=0.2"),
    *("training.batch_size=6", "training.epochs=3"),
]


@pytest.fixture
def cells(tmp_path):
    """Cells of a grid by upsampler and seed."""

    def cells(*names):
        file = tmp_path / "grid.yaml"
        file.write_text(f"base: {ROOT / 'configs' / 'demo.yaml'}\nvary: {{seed: [0, 1]}}\n")
        loaded = grid.load(file, [*SETTINGS, f"vary.model.upsampler=[{', '.join(names)}]"])
        return {(cell.variant, cell.seed): cell.config for cell in loaded.cells}

    return cells


def shared_weights(network):
    """Arrays by path of all layers but the upsamplers."""
    layers = [layer for layer in network.layers if not isinstance(layer, Upsampler)]
    return {weight.path: ops.convert_to_numpy(weight) for layer in layers for weight in layer.weights}


def test_cells_of_a_seed_start_with_the_same_weights_outside_their_upsamplers(cells):
    found = {key: shared_weights(from_config(config, 3)) for key, config in cells(*UPSAMPLERS).items()}
    for seed in (0, 1):
        reference = found["nearest", seed]
        # Two convolutions and two normalizations in each of 5 stages, and the logits.
        assert len(reference) == 5 * (2 + 2 * 4) + 2
        for name in UPSAMPLERS:
            assert found[name, seed].keys() == reference.keys(), name
            for path, weight in found[name, seed].items():
                np.testing.assert_array_equal(weight, reference[path], err_msg=f"{name}, {path}")
    kernels = [path for path in found["nearest", 0] if path.endswith("kernel")]
    assert len(kernels) == 11
    for path in kernels:
        assert not np.isclose(found["nearest", 0][path], found["nearest", 1][path]).any(), path


# One of each kind: without weights, with its own, with the pooling's positions, with the skip.
@pytest.fixture
def epochs(cells):
    """What each cell sees and draws, by upsampler, seed and epoch, through the callback that training uses."""
    found = {}
    for (name, seed), config in cells("nearest", "carafe", "max_unpool", "fade").items():
        dataset = data.prepare(config.data)
        batches = Batches(dataset.train, config.training.batch_size, shuffle_seed=config.seed)
        trainer = make_trainer(config, dataset.classes)
        setup = EpochSetup(batches, config.seed)
        setup.set_model(trainer)
        for epoch in range(2):
            setup.on_epoch_begin(epoch)
            first = batches[0]
            seen = np.concatenate([batches[index]["image"] for index in range(len(batches))])
            dropout = [ops.convert_to_numpy(v) for v in trainer.network.variables if "seed_generator" in v.path]
            image, mask = trainer.augmentation(ops.cast(first["image"], "float32"), first["mask"])
            changed = [ops.convert_to_numpy(image), ops.convert_to_numpy(mask)]
            found[name, seed, epoch] = [seen, *changed, *dropout]
    return found


def test_cells_of_a_seed_see_the_same_images_in_the_same_order_changed_alike(epochs):
    for seed, epoch in itertools.product((0, 1), (0, 1)):
        reference = epochs["nearest", seed, epoch]
        assert len(reference) == 1 + 2 + 5  # images in order; image and mask after augmentation; dropouts
        for name in ("carafe", "max_unpool", "fade"):
            assert len(epochs[name, seed, epoch]) == len(reference)
            for ours, theirs in zip(epochs[name, seed, epoch], reference):
                np.testing.assert_array_equal(ours, theirs, err_msg=f"{name}, seed {seed}, epoch {epoch}")
    for a, b in itertools.combinations(itertools.product((0, 1), (0, 1)), 2):  # any two seeds or epochs differ
        for one, other in zip(epochs["nearest", *a], epochs["nearest", *b]):
            assert not np.array_equal(one, other), (a, b)
