"""Samples at predicted positions."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.helpers.against_torch import assert_values_and_gradients_equal
from tests.helpers.xla import ONLY_TENSORFLOW, as_in_training, compiled_parts
from unet.model import build_unet
from unet.training import SegmentationTrainer
from unet.upsamplers import strips
from unet.upsamplers.sampling import sample


def expected(x, rows, columns):
    """``torch.nn.functional.grid_sample``, for each group of channels."""
    b, h, w, _, groups = rows.shape

    def grid(positions, length):  # (B, h, w, 4, groups) to (B·groups, 2h, 2w)
        image = positions.reshape(b, h, w, 2, 2, groups).permute(0, 5, 1, 3, 2, 4).reshape(b * groups, 2 * h, 2 * w)
        return 2 * image / (length - 1) - 1

    maps = x.reshape(b, h, w, groups, -1).permute(0, 3, 4, 1, 2).reshape(b * groups, -1, h, w)
    at = torch.stack([grid(columns, w), grid(rows, h)], -1)
    y = F.grid_sample(maps, at, mode="bilinear", padding_mode="border", align_corners=True)
    return y.reshape(b, -1, 2 * h, 2 * w).permute(0, 2, 3, 1)


def test_values_and_gradients_equal_those_of_grid_sample(rng):
    b, h, w, groups = 2, 5, 4, 3
    x = rng.normal(size=(b, h, w, 2 * groups))
    rows, columns = (rng.uniform(-2, length + 1, (b, h, w, 4, groups)) for length in (h, w))
    given = [array.astype("float32") for array in (x, rows, columns)]
    assert_values_and_gradients_equal(sample, expected, given, rng)


@ONLY_TENSORFLOW
@pytest.mark.parametrize("strip_rows", [16, 2])  # one strip, or strips of 2 and 3 rows
def test_compiled_by_xla_within_a_step_without_xla_values_and_gradients_are_those_of_grid_sample(
    strip_rows, rng, monkeypatch
):
    monkeypatch.setattr(strips, "STRIP_ROWS", strip_rows)
    fused = as_in_training(sample)
    x = rng.normal(size=(2, 5, 4, 6))
    given = [array.astype("float32") for array in (x, *rng.uniform(-2, 6, (2, 2, 5, 4, 4, 3)))]
    assert compiled_parts(fused.get_concrete_function(*given)) == 1
    assert_values_and_gradients_equal(fused, expected, given, rng)


@ONLY_TENSORFLOW
@pytest.mark.parametrize(("training", "jit", "parts"), [(True, False, 2), (False, False, 0), (True, True, 0)])
def test_xla_compiles_parts_in_training_only_and_where_it_does_not_compile_the_whole(training, jit, parts):
    import tensorflow as tf

    network = build_unet(3, width=4, depth=2, upsampler="dysample")
    trainer = SegmentationTrainer(network, lambda image, mask: (image, mask), lambda mask, logits: 0.0, 3)
    step = tf.function(lambda batch: trainer(batch, training=training)["logits"], autograph=False, jit_compile=jit)
    batch = {"image": np.zeros((1, 8, 8, 3), "uint8"), "mask": np.zeros((1, 8, 8), "uint8")}
    assert compiled_parts(step.get_concrete_function(batch)) == parts
