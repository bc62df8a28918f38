"""Sums over neighbourhoods, in strips and by taps, and layers whose convolutions are not merged."""

import functools
import math

import pytest
import torch
import torch.nn.functional as F

from benchmarks import parity
from tests.helpers import BACKEND, slow_beyond_tensorflow
from tests.helpers.against_torch import assert_values_and_gradients_equal
from tests.helpers.xla import ONLY_TENSORFLOW, as_in_training, compiled_parts
from unet import backend
from unet.upsamplers import neighbourhood, strips

GROUPS, DEPTH = 2, 3


def unfolded(x, size):
    """The neighbours of every pixel by PyTorch: ``(B, h, w, groups, C/groups, k²)``."""
    b, h, w, c = x.shape
    near = F.unfold(x.permute(0, 3, 1, 2), size, padding=size // 2).reshape(b, -1, c // DEPTH, size**2, h, w)
    return (
        near.permute(0, 4, 5, 2, 1, 3)
        if c == DEPTH
        else near.reshape(b, GROUPS, DEPTH, -1, h, w).permute(0, 4, 5, 1, 2, 3)
    )


def image(cells):
    """``(B, h, w, groups, 4, C/groups)`` to ``(B, 2h, 2w, C)``."""
    b, h, w, g, _, d = cells.shape
    return cells.reshape(b, h, w, g, 2, 2, d).permute(0, 1, 4, 2, 5, 3, 6).reshape(b, 2 * h, 2 * w, g * d)


def expected_reassembly(logits, x, share):
    b, h, w, _, taps = logits.shape
    kernels = (share * logits.softmax(-1)).reshape(b, h, w, GROUPS, 4, taps)
    return image(torch.einsum("bhwgst,bhwgct->bhwgsc", kernels, unfolded(x, math.isqrt(taps))))


def expected_correlation(queries, keys, size):
    b, h, w, c = keys.shape
    cells = queries.reshape(b, h, 2, w, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, 4, c)
    return torch.einsum("bhwsc,bhwct->bhwst", cells, unfolded(keys, size)[:, :, :, 0])


def case(sum_of, size, shape, rng):
    """Our function, that by PyTorch, and what they are given."""
    b, h, w = shape
    if sum_of == "reassemble":
        shapes = [(*shape, 4 * GROUPS, size**2), (*shape, GROUPS * DEPTH), (*shape, 1, 1)]
        ours, theirs = neighbourhood.reassemble, expected_reassembly
    else:
        shapes = [(b, 2 * h, 2 * w, DEPTH), (*shape, DEPTH)]
        ours, theirs = (functools.partial(part, size=size) for part in (neighbourhood.correlate, expected_correlation))
    return ours, theirs, [rng.normal(size=shape).astype("float32") for shape in shapes]


# Less than a block of pixels, blocks that fill a row and that do not, and one whose length depends on the size.
@pytest.mark.parametrize(("size", "w"), [(3, 3), (5, 8), (5, 9), (7, 13)])
@pytest.mark.parametrize("by_taps", [False, True])
@pytest.mark.parametrize("sum_of", ["reassemble", "correlate"])
def test_values_and_gradients_in_strips_and_by_taps_equal_those_of_torchs_unfold(
    sum_of, by_taps, size, w, rng, monkeypatch
):
    monkeypatch.setattr(strips, "STRIP_ROWS", 1)  # a strip for each row, less than the neighbourhood reaches
    for module in (neighbourhood, strips):
        monkeypatch.setattr(module, "compiled_by_xla", lambda: by_taps)
    ours, theirs, given = case(sum_of, size, (2, 5, w), rng)
    assert_values_and_gradients_equal(ours, theirs, given, rng)


@ONLY_TENSORFLOW
@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("sum_of", ["reassemble", "correlate"])
def test_strips_compiled_by_xla_have_the_values_and_gradients_of_torchs_unfold(sum_of, size, rng, monkeypatch):
    monkeypatch.setattr(strips, "STRIP_ROWS", 2)  # strips of 2 and 3 rows
    ours, theirs, given = case(sum_of, size, (2, 5, 7), rng)
    fused = as_in_training(ours)
    assert compiled_parts(fused.get_concrete_function(*given)) == 2
    assert_values_and_gradients_equal(fused, theirs, given, rng)


@ONLY_TENSORFLOW
def test_maps_whose_size_is_unknown_are_not_compiled_by_xla(rng):
    import tensorflow as tf

    ours, theirs, given = case("reassemble", 3, (2, 5, 7), rng)
    logits, x, share = (tf.TensorSpec([None, None, None, *array.shape[3:]]) for array in given)
    fused = as_in_training(ours, [logits, x, share])
    assert compiled_parts(fused.get_concrete_function()) == 0
    assert_values_and_gradients_equal(fused, theirs, given, rng)


@slow_beyond_tensorflow
@pytest.mark.parametrize("name", ["carafe", "fade", "sapa"])
def test_layers_whose_maps_have_more_channels_than_the_compressed_ones_equal_the_formula(name):
    """With fewer channels, as in ``benchmarks/parity.py``, two linear maps are merged into one."""
    (case,) = [case for case in parity.CASES if case.name == name and not case.options]
    options = (("embedding" if name == "sapa" else "compressed", 5),)
    merged = parity.Case(name, options, case.reference, case.expected)
    assert parity.differences(merged, (5, 7))[0] <= case.tolerance


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only TensorFlow has both")
def test_on_tensorflow_the_code_knows_whether_xla_compiles_it_and_computes_in_turn():
    import tensorflow as tf

    found = []

    def function(x, y):
        (z,) = backend.in_turn([x + 1], y)
        found.append((backend.compiled_by_xla(), [op.type for op in z.op.control_inputs]))
        return z

    for jit in (False, True):
        tf.function(function, jit_compile=jit, autograph=False).get_concrete_function(tf.ones(2), tf.ones(2))
    assert found == [(False, ["AddV2"]), (True, [])]  # XLA has an order of its own
    assert not backend.compiled_by_xla()
