"""Sizes, matrices and the three ways to a transposed convolution, against PyTorch and Keras, over all small cases.

All values are whole numbers in float64, so equal means equal to the last bit.
"""

import math
import subprocess
import sys
from itertools import product

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.helpers import ROOT
from tests.helpers.commands import run_unet
from unet import arithmetic
from unet.arithmetic import (
    conv_matrix,
    conv_paddings,
    conv_size,
    conv_transpose_matrix,
    conv_transpose_paddings,
    conv_transpose_size,
    convolve,
    extent,
    full_padding,
    overlap_count,
    pool_size,
    same_padding,
    taps_per_phase,
    transpose_by_matrix,
    transpose_by_overlap_add,
    transpose_by_zero_insertion,
    why_unreachable,
    zero_insertion,
)

backend_free = pytest.mark.backend_free
TRANSPOSES = (transpose_by_matrix, transpose_by_zero_insertion, transpose_by_overlap_add)
every_kernel_and_stride = pytest.mark.parametrize(
    ("k", "s"), [pytest.param(k, s, id=f"k{k}s{s}") for k, s in product(range(1, 7), range(1, 5))]
)


def whole(rng, *shape):
    """Whole numbers without zeros, so that a missing or misplaced product is detected."""
    return rng.integers(1, 10, shape) * rng.choice([-1.0, 1.0], shape)


def planes(*arrays):
    return [torch.tensor(array, dtype=torch.float64)[None, None] for array in arrays]


def torch_transpose(x, kernel, stride, padding, output_padding, dilation):
    options = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
    return F.conv_transpose2d(*planes(x, kernel), **options)[0, 0].numpy()


def size_or_none(function, *arguments):
    """A size, or None if the arguments are refused (RuntimeError in PyTorch, ValueError here)."""
    try:
        return function(*arguments)
    except (RuntimeError, ValueError):
        return None


# ── Sizes ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@backend_free
@every_kernel_and_stride
def test_convolution_sizes_are_pytorchs(k, s):
    def real(i, p, d):
        return F.conv1d(torch.ones(1, 1, i), torch.ones(1, 1, k), stride=s, padding=p, dilation=d).shape[2]

    for d, i in product((1, 2, 3), range(1, 9)):
        for p in range(d * (k - 1) + 2):
            assert size_or_none(conv_size, i, k, s, p, d) == size_or_none(real, i, p, d), (i, p, d)


@backend_free
@every_kernel_and_stride
def test_pooling_sizes_are_pytorchs(k, s):
    def real(i, p, d, ceil):
        return F.max_pool2d(torch.ones(1, 1, i, i), k, s, p, d, ceil).shape[2]

    for d, i, ceil, p in product((1, 2, 3), range(1, 9), (False, True), range(k // 2 + 2)):
        assert size_or_none(pool_size, i, k, s, p, d, ceil) == size_or_none(real, i, p, d, ceil), (i, p, d, ceil)


@backend_free
def test_pooling_takes_the_kernel_size_as_stride_and_rounded_up_keeps_every_pixel():
    for i, k in product(range(1, 12), range(1, 5)):
        assert pool_size(i, k, ceil_mode=True) == math.ceil(i / k)  # Keras' padding "same"
        if i >= k:
            assert pool_size(i, k) == i // k


@backend_free
@every_kernel_and_stride
def test_transposed_convolution_sizes_are_pytorchs(k, s):
    def real(i, p, op, d):
        ones = torch.ones(1, 1, i), torch.ones(1, 1, k)
        return F.conv_transpose1d(*ones, stride=s, padding=p, output_padding=op, dilation=d).shape[2]

    for d, i in product((1, 2, 3), range(1, 5)):
        for p, op in product(range(d * (k - 1) + 2), range(max(s, d) + 1)):
            assert size_or_none(conv_transpose_size, i, k, s, p, op, d) == size_or_none(real, i, p, op, d), (
                i,
                p,
                op,
                d,
            )


@backend_free
def test_half_padding_keeps_the_size_and_full_padding_is_the_last_that_touches():
    for k, d, i in product(range(1, 7), (1, 2, 3), range(1, 6)):
        full = full_padding(k, d)
        assert conv_size(i, k, 1, full, d) == i + d * (k - 1)
        ones, kernel = np.ones((i, i)), np.ones((k, k))
        assert convolve(ones, kernel, padding=full, dilation=d)[0, 0] == 1
        assert convolve(ones, kernel, padding=full + 1, dilation=d)[0, 0] == 0
        if d * (k - 1) % 2 == 0:
            assert conv_size(i, k, 1, same_padding(k, d), d) == i
    with pytest.raises(ValueError, match=r"kernel_size must make d·\(k − 1\) even.* received 1·\(4 − 1\)"):
        same_padding(4)


# ── Which padding reaches a size ────────────────────────────────────────────────────────────────────────────────────


@backend_free
@every_kernel_and_stride
def test_the_paddings_found_are_all_there_are(k, s):
    for d, i in product((1, 2, 3), (1, 2, 5)):
        paddings = range(d * (k - 1) + 1)
        pairs = list(product(paddings, range(max(s, d))))
        convolved = {p: size_or_none(conv_size, i, k, s, p, d) for p in paddings}
        transposed = {pair: size_or_none(conv_transpose_size, i, k, s, *pair, d) for pair in pairs}
        for target in range(1, i * s + 3 * d * k):
            reach = [p for p in paddings if convolved[p] == target]
            assert conv_paddings(i, target, k, s, d) == reach
            assert bool(why_unreachable(i, target, k, s, d, transposed=False)) == (not reach)
            reach = [pair for pair in pairs if transposed[pair] == target]
            assert conv_transpose_paddings(i, target, k, s, d) == reach
            assert bool(why_unreachable(i, target, k, s, d)) == (not reach)


@backend_free
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (
            (3, 12, 3, 2),
            "no padding makes 3 into 12: kernel 3, stride 2 and dilation 1 reach 3 to 8; nearest: 8",
        ),
        (
            (3, 4, 3, 1),
            "no padding makes 3 into 4: kernel 3, stride 1 and dilation 1 reach every second size from 1 to 5, "
            "as a pixel of padding counts on both sides; nearest: 3 and 5",
        ),
        (
            (4, 9, 1, 1, 1, False),
            "no padding makes 4 into 9: kernel 1, stride 1 and dilation 1 reach only 4; nearest: 4",
        ),
        (
            (5, 5, 3, 2, 1, False),
            "no padding makes 5 into 5: kernel 3, stride 2 and dilation 1 reach 2 to 4; nearest: 4",
        ),
        ((5, 4, 3, 2, 1, False), ""),
    ],
)
def test_an_unreachable_size_is_explained(arguments, expected):
    assert why_unreachable(*arguments) == expected


# ── Matrices and values ─────────────────────────────────────────────────────────────────────────────────────────────


@backend_free
@every_kernel_and_stride
def test_the_matrix_is_the_convolution(k, s, rng):
    for d, shape in product((1, 2, 3), ((1, 4), (5, 3), (7, 6))):
        x, kernel = whole(rng, *shape), whole(rng, k, k)
        for p in range(d * (k - 1) + 1):
            if min(shape) + 2 * p < extent(k, d):
                continue
            theirs = F.conv2d(*planes(x, kernel), stride=s, padding=p, dilation=d)[0, 0].numpy()
            np.testing.assert_array_equal(convolve(x, kernel, s, p, d), theirs)
            matrix = conv_matrix(kernel, shape, s, p, d)
            assert matrix.shape == (theirs.size, x.size)
            np.testing.assert_array_equal((matrix @ x.ravel()).reshape(theirs.shape), theirs)


@backend_free
@every_kernel_and_stride
def test_three_ways_to_the_transposed_convolution_and_pytorchs_agree(k, s, rng):
    kernel = whole(rng, k, k)
    for d, height in product((1, 2, 3), range(1, 5)):
        x = whole(rng, height, 5 - height)
        for p, op in product(range(d * (k - 1) + 1), range(max(s, d))):
            if min(conv_transpose_size(n, k, s, 0, op, d) for n in x.shape) <= 2 * p:
                continue
            theirs = torch_transpose(x, kernel, s, p, op, d)
            for transpose in TRANSPOSES:
                ours = transpose(x, kernel, s, p, op, d)
                np.testing.assert_array_equal(ours, theirs, f"{transpose.__name__}: p={p}, op={op}, d={d}")


@backend_free
@pytest.mark.parametrize("shape", [(1, 4), (3, 2), (5, 1)])
def test_kernels_need_not_be_square_and_more_than_full_padding_crops_the_input(shape, rng):
    x, kernel = whole(rng, 6, 5), whole(rng, *shape)
    for s, p, d in product((1, 2, 3), (0, 1, 2), (1, 2)):
        theirs = torch_transpose(x, kernel, s, p, 0, d)
        for transpose in TRANSPOSES:
            np.testing.assert_array_equal(transpose(x, kernel, s, p, 0, d), theirs)
        back = F.conv2d(*planes(theirs, kernel), stride=s, padding=p, dilation=d)[0, 0].numpy()
        np.testing.assert_array_equal(convolve(theirs, kernel, s, p, d), back)
    assert zero_insertion(6, 1, stride=2, padding=1).padding == -1


@backend_free
def test_the_transposed_convolution_is_the_gradient_of_the_convolution(rng):
    """The reason for the name "backward strided convolution": Cᵀ propagates gradients."""
    x, kernel = torch.tensor(whole(rng, 1, 1, 7, 6), requires_grad=True), whole(rng, 3, 2)
    y = F.conv2d(x, *planes(kernel), stride=2, padding=1)
    upstream = whole(rng, *y.shape[2:])
    y.backward(*planes(upstream))
    np.testing.assert_array_equal(transpose_by_matrix(upstream, kernel, 2, 1), x.grad[0, 0].numpy())


@backend_free
@every_kernel_and_stride
def test_the_equivalent_convolution_has_the_parameters_of_dumoulin_and_visin(k, s):
    """Relationship 14 with k' = k, s' = 1, p' = k − p − 1 over an input of (i − 1)·s + 1."""
    for i, p, op in product(range(1, 5), range(k), range(s)):
        if (i - 1) * s + k + op <= 2 * p:
            continue
        found = zero_insertion(i, k, s, p, op)
        assert (found.zeros, found.padding, found.stride, found.inserted_size) == (
            s - 1,
            k - p - 1,
            1,
            i + (i - 1) * (s - 1),
        )
        assert found.output_size == conv_size(found.inserted_size + op, k, padding=found.padding)


# ── Overlap ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@backend_free
@every_kernel_and_stride
def test_the_overlap_is_what_ones_add_up_to_and_is_even_inside_exactly_if_the_stride_divides_the_kernel(k, s):
    for d in (1, 2, 3):
        n = 2 * d * k  # long enough to have an inside
        counts = overlap_count((n, 3), k, s, dilation=d)
        ones = F.conv_transpose2d(*planes(np.ones((n, 3)), np.ones((k, k))), stride=s, dilation=d)
        np.testing.assert_array_equal(counts, ones[0, 0].numpy())
        line = overlap_count((n, 1), (k, 1), s, dilation=d)[:, 0]
        inside = line[d * (k - 1) : (n - 1) * s + 1]
        phases = taps_per_phase(k, s, d)
        np.testing.assert_array_equal(inside, np.resize(np.roll(phases, -(d * (k - 1) % s)), len(inside)))
        even = k % s == 0 and math.gcd(s, d) == 1
        assert (inside.min() == inside.max()) == even
        if d == 1:
            assert even == (k % s == 0)


@backend_free
def test_overlap_is_cropped_and_padded_like_the_output():
    for p, op, d in product(range(3), range(2), (1, 2)):
        ones = np.ones((4, 2)), np.ones((3, 5))
        np.testing.assert_array_equal(overlap_count((4, 2), (3, 5), 2, p, op, d), torch_transpose(*ones, 2, p, op, d))
    assert overlap_count(2, 3, 2).shape == (5, 5)


@backend_free
def test_kernel_3_stride_2_covers_pixels_four_times_as_often_as_their_neighbours():
    """Odena et al. 2016: twice as many in one dimension, four times in two."""
    assert taps_per_phase(3, 2).tolist() == [2, 1]
    assert overlap_count(3, 3, 2)[2:5, 2:5].tolist() == [[4, 2, 4], [2, 1, 2], [4, 2, 4]]


# ── Keras ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_keras_conv_transpose_is_a_crop_of_overlap_add(padding, rng):
    """Size i·s with "same", which crops max(k − s, 0), the smaller half first; (i − 1)·s + max(k, s) with "valid"."""
    x = whole(rng, 3, 2)
    for k, s in product(range(1, 7), range(1, 5)):
        kernel = whole(rng, k, k)
        nhwc = x[None, :, :, None].astype("float32"), kernel[:, :, None, None].astype("float32")
        theirs = keras.ops.conv_transpose(*nhwc, strides=s, padding=padding)
        whole_output = transpose_by_overlap_add(x, kernel, s, output_padding=max(s - k, 0))
        if padding == "same":
            first = max(k - s, 0) // 2
            whole_output = whole_output[first : first + 3 * s, first : first + 2 * s]
        np.testing.assert_array_equal(keras.ops.convert_to_numpy(theirs)[0, :, :, 0], whole_output, f"k{k} s{s}")


@backend_free
def test_the_module_needs_no_keras():
    code = "import sys, unet.arithmetic; sys.exit('keras' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# ── Errors ──────────────────────────────────────────────────────────────────────────────────────────────────────────

X, K = np.ones((2, 2)), np.ones((3, 3))


@backend_free
@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: conv_size(0, 3), "size must be a whole number ≥ 1, received 0"),
        (lambda: conv_size(4, 0), "kernel_size must be a whole number ≥ 1, received 0"),
        (lambda: conv_size(4, 3, 0), "stride must be a whole number ≥ 1, received 0"),
        (lambda: conv_size(4, 3, 1, 0.5), r"padding must be a whole number ≥ 0, received 0\.5"),
        (lambda: conv_size(4, 3, dilation=0), "dilation must be a whole number ≥ 1, received 0"),
        (
            lambda: conv_size(4, 3, padding=1, dilation=4),
            "size: 4 pixels and 1 of padding on both sides must contain a kernel that extends over 9 pixels",
        ),
        (lambda: pool_size(4, 2, padding=2), "padding must be at most half the kernel size 2, received 2"),
        (
            lambda: pool_size(1, 3, 2, ceil_mode=True),
            "size: 1 pixels are too few for pooling with kernel 3 and stride 2",
        ),
        (
            lambda: conv_transpose_size(3, 3, 2, output_padding=2),
            r"output_padding must be smaller than the stride or the dilation \(stride 2, dilation 1\), received 2",
        ),
        (
            lambda: conv_transpose_size(1, 3, padding=2),
            "padding must leave at least one output pixel, received 2, which leaves -1",
        ),
        (lambda: conv_transpose_paddings(3, 0, 3), "target must be a whole number ≥ 1, received 0"),
        (lambda: conv_paddings(0, 3, 3), "size must be a whole number ≥ 1, received 0"),
        (lambda: convolve(X, K), "must contain a kernel"),
        (lambda: convolve(np.ones(4), K), r"x must be one plane \(height, width\).*received \(4,\)"),
        (lambda: transpose_by_matrix(X, np.ones((1, 2, 2))), r"kernel must be one plane.*received \(1, 2, 2\)"),
        (lambda: transpose_by_overlap_add(np.ones((0, 2)), K), r"x must be one plane.*received \(0, 2\)"),
        (lambda: transpose_by_zero_insertion(X, K, padding=-1), "padding must be a whole number ≥ 0, received -1"),
        (lambda: conv_matrix(K, (4, 0)), "input_size must be a whole number ≥ 1, received 0"),
        (lambda: conv_transpose_matrix(K, 2, 2, 0, 2), "output_padding must be smaller"),
        (lambda: overlap_count(2, 0, 1), "kernel_size must be a whole number ≥ 1, received 0"),
    ],
)
def test_an_impossible_argument_is_named(call, expected):
    with pytest.raises(ValueError, match=expected):
        call()


# ── The script ──────────────────────────────────────────────────────────────────────────────────────────────────────


def lines(*arguments):
    """What the script prints; a backend that does not exist shows that it imports none."""
    code, out, err = run_unet("arithmetic", *arguments, KERAS_BACKEND="none")
    assert (code, err) == (0, "")
    return [line.strip() for line in out.splitlines()]


@backend_free
def test_the_script_explains_a_transposed_convolution():
    out = lines("conv_transpose", 3, "--kernel", 3, "--stride", 2, "--padding", 1)
    assert out[1] == "o = (3 - 1)*2 - 2*1 + 1*(3 - 1) + 1 + 0 = 5"
    assert "1 zero between pixels (3 → 5), padding p' = 1, stride 1, kernel flipped" in out[2]
    assert out[3] == "overlap uneven: inner pixels are covered 1 to 4 times: a checkerboard"
    assert out[4:] == ["1 2 1 2 1", "2 4 2 4 2", "1 2 1 2 1", "2 4 2 4 2", "1 2 1 2 1"]


@backend_free
def test_the_script_lists_paddings_or_says_that_none_reaches():
    reaching = lines("conv_transpose", 3, "-k", 3, "-s", 2, "--reach", 6)
    assert reaching[1:] == ["padding 1, output padding 1: o = (3 - 1)*2 - 2*1 + 1*(3 - 1) + 1 + 1 = 6"]
    assert lines("conv", 7, "--reach", 7)[1:] == ["padding 1: o = floor((7 + 2*1 - 1*(3 - 1) - 1) / 1) + 1 = 7"]
    assert lines("conv_transpose", 3, "-s", 2, "--reach", 12)[1].startswith("no padding makes 3 into 12: ")


@backend_free
def test_the_script_prints_matrices_with_the_weights_names():
    out = lines("conv", 3, "--kernel", 2, "--matrix")
    assert out[2] == "C, 4×9: a row per output pixel, a column per input pixel"
    assert [line.split() for line in out[3:]] == [
        ["w00", "w01", "0", "w10", "w11", "0", "0", "0", "0"],
        ["0", "w00", "w01", "0", "w10", "w11", "0", "0", "0"],
        ["0", "0", "0", "w00", "w01", "0", "w10", "w11", "0"],
        ["0", "0", "0", "0", "w00", "w01", "0", "w10", "w11"],
    ]
    out = lines("conv_transpose", 1, "--kernel", 2, "--stride", 2, "--matrix")
    assert out[-5:] == ["Cᵀ, 4×1: a row per output pixel, a column per input pixel", "w00", "w01", "w10", "w11"]
    assert "overlap even: inner pixels are covered 1 time" in out


@backend_free
def test_the_script_rounds_pooling_as_asked():
    assert lines("pool", 5, "--kernel", 2)[1] == "o = floor((5 + 2*0 - 1*(2 - 1) - 1) / 2) + 1 = 2"
    assert lines("pool", 5, "--kernel", 2, "--ceil")[1].endswith("= 3")
    assert lines("pool", 2, "-k", 1, "-s", 5, "--ceil")[1].endswith("+ 1 - 1 (the last window would start outside) = 1")


@backend_free
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["conv_transposed", 3], "error: OPERATION: 'conv_transposed' is not one of"),
        (["conv", 2], "error: size: 2 pixels and 0 of padding on both sides must contain a kernel"),
        (["conv", 5, "--stride", 0], "error: stride must be a whole number ≥ 1, received 0"),
        (["conv", 5, "--output-padding", 1], "error: --output-padding is for conv_transpose, not for conv"),
        (["pool", 5, "--reach", 3], "error: --reach is for conv and conv_transpose, not for pool"),
        (["conv", 5, "--reach", 3, "--padding", 1], "error: --reach determines the padding"),
        (["conv", 6, "--matrix"], "error: --matrix prints the matrix of inputs up to 5×5"),
        (["conv_transpose", 5, "-s", 2, "--matrix"], "error: --matrix prints up to 64 output pixels, received 121"),
    ],
)
def test_the_script_refuses_in_one_message(arguments, expected):
    code, out, err = run_unet("arithmetic", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(expected)
    assert err.count("\n") == 1


@backend_free
def test_the_scripts_help_shows_how_to_call_it():
    code, out, _ = run_unet("arithmetic", "--help")
    assert code == 0
    assert "unet arithmetic conv_transpose 3" in out


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: conv_size(True, 1), "size must be a whole number ≥ 1, received True"),
        (lambda: conv_size(5, 3, padding=np.False_), "padding must be a whole number ≥ 0"),
        (lambda: conv_size(5, 3, stride=2.0), "stride must be a whole number ≥ 1, received 2.0"),
        (lambda: arithmetic.pool_size(5, 2, ceil_mode="no"), "ceil_mode must be True or False, received 'no'"),
        (lambda: arithmetic.zero_insertion(5, 3, padding="1"), "padding must be a whole number ≥ 0, received '1'"),
        (lambda: arithmetic.overlap_count((4, 4, 4), 3, 2), r"size must be one number or \(height, width\)"),
        (lambda: arithmetic.why_unreachable(5, 4, 3, transposed=1), "transposed must be True or False, received 1"),
    ],
)
def test_values_of_another_type_are_named(call, expected):
    with pytest.raises(ValueError, match=expected):
        call()


def test_whole_numbers_of_numpy_are_accepted():
    assert conv_size(np.int64(5), np.uint8(3), padding=np.int32(1)) == 5
