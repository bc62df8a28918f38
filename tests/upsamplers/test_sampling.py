"""Samples at predicted positions."""

import torch
import torch.nn.functional as F

from tests.helpers.against_torch import assert_values_and_gradients_equal
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
