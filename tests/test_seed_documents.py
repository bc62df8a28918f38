"""Every worked example of convolution arithmetic in the five seed documents, with the documents' own numbers.

Where a document errs, the test states what is right and its docstring what the document says. The documents' examples
of unpooling and interpolation are tested with the upsamplers and `resample`.
"""

import keras
import numpy as np
import pytest

from unet.arithmetic import (
    conv_matrix,
    conv_paddings,
    conv_size,
    conv_transpose_matrix,
    conv_transpose_paddings,
    conv_transpose_size,
    convolve,
    full_padding,
    overlap_count,
    pool_size,
    same_padding,
    transpose_by_matrix,
    transpose_by_overlap_add,
    transpose_by_zero_insertion,
    zero_insertion,
)

backend_free = pytest.mark.backend_free
equal = np.testing.assert_array_equal
COUNTING = np.arange(1.0, 10).reshape(3, 3)
"""A 3×3 kernel whose weights all differ, so that a flip or a swap is detected."""


def matrix_of_weights(rows, kernel):
    """Insert the kernel's numbers for the names in a document: ``w12`` is the weight at row 1, column 2, ``.`` is 0."""
    width = kernel.shape[1]
    first = min(int(name[1]) for row in rows for name in row.split() if name != ".")  # documents count from 0 or 1

    def value(name):
        return 0 if name == "." else kernel.flat[(int(name[1]) - first) * width + int(name[2]) - first]

    return np.array([[value(name) for name in row.split()] for row in rows])


@backend_free
class TestSeed000:
    """HJ-harry, "Transposed Convolution"."""

    def test_animation_a_3x3_kernel_makes_2x2_into_4x4(self):
        assert conv_transpose_size(2, kernel_size=3) == 4

    def test_ex1_two_zeros_around_the_input_and_a_3x3_kernel(self):
        """The document lists i = 4, which is the output size of its animation; 4×4 pixels would become 6×6."""
        step = zero_insertion(2, kernel_size=3, stride=1)
        assert (step.zeros, step.padding, step.output_size) == (0, 2, 4)
        assert conv_transpose_size(4, kernel_size=3, stride=1) == 6

    def test_ex1_corner_pixels_map_to_corner_pixels(self):
        y = transpose_by_zero_insertion([[1, 0], [0, 10]], COUNTING)
        assert (y[0, 0], y[-1, -1]) == (1 * COUNTING[0, 0], 10 * COUNTING[2, 2])
        assert y[0, -1] == y[-1, 0] == 0

    def test_the_matrix_c_of_a_3x3_kernel_over_4x4(self):
        """The document prints w10 w20 w21 where w10 w11 w12 belong, and moves rows 3 and 4 by one column each.

        Row 3 is the first output pixel of the second row: the kernel starts at input pixel 4, not 2, where it would
        wrap around the image's edge.
        """
        expected = matrix_of_weights(
            [
                "w00 w01 w02 .   w10 w11 w12 .   w20 w21 w22 .   .   .   .   .  ",
                ".   w00 w01 w02 .   w10 w11 w12 .   w20 w21 w22 .   .   .   .  ",
                ".   .   .   .   w00 w01 w02 .   w10 w11 w12 .   w20 w21 w22 .  ",
                ".   .   .   .   .   w00 w01 w02 .   w10 w11 w12 .   w20 w21 w22",
            ],
            COUNTING,
        )
        equal(conv_matrix(COUNTING, 4), expected)

    def test_the_matrix_as_printed_is_no_convolution(self):
        printed = matrix_of_weights(
            [
                "w00 w01 w02 .   w10 w20 w21 .   w20 w21 w22 .   .   .   .   .  ",
                ".   w00 w01 w02 .   w10 w20 w21 .   w20 w21 w22 .   .   .   .  ",
                ".   .   w00 w01 w02 .   w10 w20 w21 .   w20 w21 w22 .   .   .  ",
                ".   .   .   w00 w01 w02 .   w10 w20 w21 .   w20 w21 w22 .   .  ",
            ],
            COUNTING,
        )
        x = np.arange(16.0)
        right = convolve(x.reshape(4, 4), COUNTING).ravel()
        assert not np.isin(printed @ x, right).any()

    def test_the_input_is_16_d_and_the_output_4_d(self):
        """The document swaps them and calls the matrix 16×4; it is 4×16, and its transpose is 16×4."""
        assert conv_matrix(COUNTING, 4).shape == (4, 16)
        assert conv_transpose_matrix(COUNTING, 2).shape == (16, 4)

    def test_the_transpose_brings_back_the_size_not_the_values(self):
        """The document says that Cᵀ times the output is the input; only the size is, as it notes elsewhere."""
        x = np.arange(16.0)
        c = conv_matrix(COUNTING, 4)
        back = c.T @ (c @ x)
        assert back.shape == x.shape
        assert not np.allclose(back, x)
        assert np.linalg.matrix_rank(c) == 4  # of 16: what is lost, no matrix brings back

    @pytest.mark.parametrize(("stride", "zeros"), [(1, 0), (2, 1), (3, 2)])
    def test_zeros_between_pixels_are_one_fewer_than_the_stride(self, stride, zeros):
        assert zero_insertion(2, 3, stride).zeros == zeros

    def test_stride_2_halves_and_transposed_doubles(self):
        assert conv_size(8, kernel_size=2, stride=2) == 4
        assert conv_transpose_size(4, kernel_size=2, stride=2) == 8

    def test_ex2_o_is_s_times_i_minus_1_plus_k(self):
        """The document lists "2 x 2 input (i = 4), unit stride (s = 1)" under the heading "non-unit stride"."""
        assert conv_transpose_size(2, kernel_size=3, stride=2) == 2 * (2 - 1) + 3 == 5

    def test_kernel_2_and_stride_2_double_the_size(self):
        """The document writes o = 2s; with s = 2, k = 2 it is o = 2i, for every i."""
        assert [conv_transpose_size(i, 2, 2) for i in range(1, 200)] == [2 * i for i in range(1, 200)]
        assert conv_transpose_size(5, 2, 2) != 2 * 2

    def test_sizes_of_its_unet(self):
        """128×128, depth 3: pooled to 64 and 32, enlarged by two Conv2DTranspose of kernel size 2 and stride 2."""
        assert conv_size(128, 3, padding=same_padding(3)) == 128
        assert (pool_size(128, 2), pool_size(64, 2)) == (64, 32)
        assert (conv_transpose_size(32, 2, 2), conv_transpose_size(64, 2, 2)) == (64, 128)


@backend_free
class TestSeed001:
    """Blog post "Up-sampling (Decoding)"."""

    def test_convolution_as_a_4x16_matrix_from_4x4_to_2x2(self, rng):
        x = rng.integers(0, 9, (4, 4))
        c = conv_matrix(COUNTING, 4)
        assert c.shape == (4, 16)
        equal((c @ x.ravel()).reshape(2, 2), convolve(x, COUNTING))

    def test_transposed_convolution_as_a_16x4_matrix_from_2x2_to_4x4(self, rng):
        x = rng.integers(0, 9, (2, 2))
        c = conv_transpose_matrix(COUNTING, 2)
        assert c.shape == (16, 4)
        equal((c @ x.ravel()).reshape(4, 4), transpose_by_overlap_add(x, COUNTING))

    def test_the_two_matrices_differ_by_transposition(self):
        equal(conv_transpose_matrix(COUNTING, 2), conv_matrix(COUNTING, 4).T)

    def test_transposed_convolution_is_not_the_inverse(self):
        """The document distinguishes it from deconvolution, but names ``nn.ConvTranspose2d`` as code for both."""
        c = conv_matrix(COUNTING, 4)
        assert not np.allclose(c @ c.T, np.eye(4))
        np.testing.assert_allclose(c @ np.linalg.pinv(c), np.eye(4), atol=1e-9)

    def test_both_ways_to_calculate_it_agree(self):
        """Overlapping copies of the 3×3 kernel at stride 2, or zero insertion and an ordinary convolution."""
        x = np.array([[1, 2], [3, 4]])
        equal(transpose_by_overlap_add(x, COUNTING, 2), transpose_by_zero_insertion(x, COUNTING, 2))

    def test_conv_transpose_k3_s2_makes_2x2_ones_into_5x5(self):
        assert conv_transpose_size(2, kernel_size=3, stride=2) == 5
        y = transpose_by_matrix(np.ones((2, 2)), np.ones((3, 3)), 2)
        equal(y, [[1, 1, 2, 1, 1], [1, 1, 2, 1, 1], [2, 2, 4, 2, 2], [1, 1, 2, 1, 1], [1, 1, 2, 1, 1]])
        equal(y, overlap_count(2, 3, 2))

    def test_4x4_and_5x5_are_both_pooled_to_2x2(self):
        """Why unpooling has an output_size; the document's example passes 5×5 for an image of 4×4."""
        assert pool_size(4, 2, stride=2) == pool_size(5, 2, stride=2) == 2


@backend_free
class TestSeed002:
    """Blog post "convolution transpose / conv2d_transpose"."""

    def test_padding_of_the_transposed_side_is_k_minus_p_minus_1(self):
        """p' = 2 with k = 3 belongs to a convolution of p = 0."""
        assert zero_insertion(2, kernel_size=3, padding=0).padding == 3 - 0 - 1 == 2

    def test_i_2_k_3_makes_4x4(self):
        assert zero_insertion(2, kernel_size=3).output_size == 4
        assert transpose_by_zero_insertion(np.ones((2, 2)), COUNTING).shape == (4, 4)

    def test_i_2_k_3_s_2_makes_5x5_by_a_convolution_of_stride_1(self):
        step = zero_insertion(2, kernel_size=3, stride=2)
        assert (step.stride, step.padding, step.output_size) == (1, 2, 5)
        assert transpose_by_zero_insertion(np.ones((2, 2)), COUNTING, 2).shape == (5, 5)

    def test_case_1_no_padding_unit_stride(self):
        for i in range(1, 6):
            for k in range(1, 6):
                assert conv_transpose_size(i, k) == i + (k - 1)

    def test_case_2_padding_unit_stride(self):
        """The document adds "= i'", which holds only for half padding, p = (k − 1)/2."""
        for k, p in ((3, 1), (4, 1), (4, 2), (5, 2)):
            assert conv_transpose_size(5, k, padding=p) == 5 + (k - 1) - 2 * p
        assert conv_transpose_size(5, 3, padding=same_padding(3)) == 5
        assert conv_transpose_size(5, 4, padding=1) == 6

    def test_case_3_no_padding_non_unit_stride(self):
        """The document's formula contains a −2p that belongs to case 4."""
        for i, k, s in ((2, 3, 2), (3, 3, 2), (2, 2, 2), (2, 5, 3)):
            assert conv_transpose_size(i, k, s) == s * (i - 1) + k

    def test_case_4_padding_non_unit_stride(self):
        for i, k, s, p in ((3, 3, 2, 1), (2, 3, 2, 1), (4, 4, 2, 1), (2, 5, 3, 2)):
            assert conv_transpose_size(i, k, s, p) == s * (i - 1) + k - 2 * p

    def test_i_6_k_3_s_2_makes_3_with_half_a_pixel_of_padding(self):
        """A padding of 0.5 is one row of zeros on one side; a row on both sides also gives 3, none gives 2."""
        assert convolve(np.pad(np.ones((6, 6)), (0, 1)), COUNTING, 2).shape == (3, 3)
        assert conv_size(6, 3, 2, padding=1) == 3
        assert conv_size(6, 3, 2, padding=0) == 2

    def test_i_3_back_to_6_lacks_a_row_that_output_padding_adds(self):
        assert conv_transpose_size(3, 3, 2, padding=1) == 5
        assert conv_transpose_paddings(3, 6, kernel_size=3, stride=2) == [(1, 1)]

    def test_the_row_added_by_output_padding_is_at_the_bottom_and_right(self):
        """The document puts it at the left and top."""
        x = np.arange(1.0, 10).reshape(3, 3)
        larger = transpose_by_matrix(x, COUNTING, 2, padding=1, output_padding=1)
        equal(larger[:5, :5], transpose_by_matrix(x, COUNTING, 2, padding=1))
        assert larger[5, 5] == 9 * COUNTING[2, 2]

    def test_what_tensorflow_pads_more_at_the_left_and_top_is_the_spread_input(self):
        """A possible explanation: the transpose of a convolution that is padded only at the bottom and right.

        It crops the last row and column of the full 7×7, so the equivalent convolution has 2 zeros before, 1 after.
        """
        x = np.arange(1.0, 10).reshape(3, 3)
        spread = np.zeros((5, 5))
        spread[::2, ::2] = x
        full = transpose_by_overlap_add(x, COUNTING, 2)
        equal(convolve(np.pad(spread, (2, 1)), COUNTING[::-1, ::-1]), full[:6, :6])


@backend_free
class TestSeed003:
    """kion.kim, "컨볼루션 연산에 대해" (on convolution)."""

    def test_i_4_k_3_makes_2(self):
        assert conv_size(4, kernel_size=3) == (4 - 3) + 1 == 2

    def test_zero_padding_counts_twice(self):
        """The animation pads 5×5 by 2 and applies a 4×4 kernel."""
        assert conv_size(5, kernel_size=4, padding=2) == (5 - 4) + 2 * 2 + 1 == 6

    def test_half_padding_keeps_the_size(self):
        """The document asks why it is called half: it is half of full padding."""
        assert conv_size(5, kernel_size=3, padding=same_padding(3)) == 5
        assert conv_paddings(5, 5, kernel_size=3) == [same_padding(3)] == [1]
        assert 2 * same_padding(3) == full_padding(3)

    def test_full_padding_leaves_one_pixel_under_the_first_window(self):
        assert full_padding(3) == 2
        assert conv_size(5, kernel_size=3, padding=2) == 7
        assert convolve(np.ones((5, 5)), np.ones((3, 3)), padding=2)[0, 0] == 1
        assert convolve(np.ones((5, 5)), np.ones((3, 3)), padding=3)[0, 0] == 0

    def test_i_5_k_3_s_2_makes_2(self):
        """The document first divides the 1 too, (i + 2p − k + 1)/2 = 1.5; correct is (i + 2p − k)/2 + 1."""
        assert (5 + 2 * 0 - 3 + 1) / 2 == 1.5
        assert conv_size(5, kernel_size=3, stride=2) == (5 + 2 * 0 - 3) / 2 + 1 == 2

    def test_stride_3_is_rounded_down_to_1(self):
        """1⅔ becomes 1. The text says that it is rounded up; the formula correctly rounds down."""
        exact = (5 + 2 * 0 - 3) / 3 + 1
        assert 1.66 < exact < 1.67
        assert conv_size(5, kernel_size=3, stride=3) == int(exact) == 1

    def test_pixels_left_over_are_dropped(self):
        matrix = conv_matrix(np.ones((3, 3)), 5, stride=3).reshape(5, 5)
        assert matrix[:3, :3].all()
        assert not matrix[3:].any()
        assert not matrix[:, 3:].any()

    def test_the_matrix_w_of_a_2x2_kernel_over_3x3(self):
        kernel = np.array([[1.0, 2], [3, 4]])
        expected = matrix_of_weights(
            [
                "w11 w12 .   w21 w22 .   .   .   .  ",
                ".   w11 w12 .   w21 w22 .   .   .  ",
                ".   .   .   w11 w12 .   w21 w22 .  ",
                ".   .   .   .   w11 w12 .   w21 w22",
            ],
            kernel,
        )
        assert expected.shape == (4, 9)
        equal(conv_matrix(kernel, 3), expected)

    def test_w_transposed_makes_2x2_into_3x3(self):
        kernel, y = np.array([[1.0, 2], [3, 4]]), np.array([5.0, 6, 7, 8])
        back = (conv_matrix(kernel, 3).T @ y).reshape(3, 3)
        equal(back, transpose_by_overlap_add(y.reshape(2, 2), kernel))

    def test_the_same_by_a_flipped_kernel_and_a_padding_of_1(self):
        kernel, y = np.array([[1.0, 2], [3, 4]]), np.array([[5.0, 6], [7, 8]])
        assert zero_insertion(2, kernel_size=2).padding == 1
        equal(convolve(y, kernel[::-1, ::-1], padding=1), transpose_by_matrix(y, kernel))

    def test_with_stride_2_only_the_top_left_2x2_gets_values(self):
        kernel = np.array([[1.0, 2], [3, 4]])
        assert conv_size(3, kernel_size=2, stride=2) == 1
        back = (conv_matrix(kernel, 3, stride=2).T @ [5.0]).reshape(3, 3)
        equal(back, [[5, 10, 0], [15, 20, 0], [0, 0, 0]])
        equal(back, transpose_by_matrix([[5]], kernel, 2, output_padding=1))

    def test_2x2_to_5x5_by_stride_2_needs_a_padding_of_2(self):
        step = zero_insertion(2, kernel_size=3, stride=2)
        assert (step.inserted_size, step.padding, step.output_size) == (3, 2, 5)

    def test_w_is_4x25_and_its_transpose_25x4_not_25x49(self):
        """25×49 is the matrix of the figure, a convolution over the zero-inserted input of width 3 + 2·2 = 7."""
        assert conv_matrix(COUNTING, 5, stride=2).shape == (4, 25)
        assert conv_transpose_matrix(COUNTING, 2, stride=2).shape == (25, 4)
        picture = conv_matrix(COUNTING[::-1, ::-1], 7)
        assert picture.shape == (25, 49)
        # Its 49 columns without those of inserted zeros are the same 25×4 matrix.
        holds_a_pixel = np.zeros((7, 7), bool)
        holds_a_pixel[2:5:2, 2:5:2] = True
        equal(picture[:, holds_a_pixel.ravel()], conv_transpose_matrix(COUNTING, 2, stride=2))

    def test_gluon_conv_2d_transpose_makes_2x2_into_4x4(self):
        """channels=1, kernel_size=3, strides=1, padding=0, output_padding=0, dilation=1."""
        assert conv_transpose_size(2, 3, stride=1, padding=0, output_padding=0, dilation=1) == 4
        assert conv_size(4, 3, stride=1, padding=0, dilation=1) == 2

    def test_o_is_i_minus_1_times_s_minus_2p_plus_k_plus_output_padding(self):
        for i, s, p, k, extra in ((2, 1, 0, 3, 0), (3, 2, 1, 3, 0), (3, 2, 1, 3, 1), (4, 3, 2, 5, 2)):
            assert conv_transpose_size(i, k, s, p, extra) == (i - 1) * s - 2 * p + k + extra

    def test_dilation_i_7_k_3_d_2_makes_3(self):
        assert conv_size(7, kernel_size=3, stride=1, dilation=2) == (7 + 2 * 0 - 3 - (3 - 1) * (2 - 1)) // 1 + 1 == 3
        equal(convolve(np.eye(7), np.eye(3), dilation=2), 3 * np.eye(3))


@backend_free
class TestSeed004:
    """Blog post "Transposed Convolution", in Vietnamese."""

    X = np.array([[0, 1], [2, 3]])
    KERNEL = np.array([[0, 1], [2, 3]])

    def test_overlap_add_of_2x2_by_2x2_makes_3x3(self):
        """The figure's numbers are those of *Dive into Deep Learning*; overlapping copies are summed."""
        y = transpose_by_overlap_add(self.X, self.KERNEL)
        equal(y, [[0, 0, 1], [0, 4, 6], [4, 12, 9]])

    def test_the_value_in_the_middle_is_0_2_2_0(self):
        shares = [
            transpose_by_overlap_add(np.where(np.arange(4).reshape(2, 2) == pixel, self.X, 0), self.KERNEL)[1, 1]
            for pixel in range(4)
        ]
        assert shares == [0, 2, 2, 0]
        assert sum(shares) == 4

    def test_stride_2_moves_each_copy_by_two_pixels(self):
        y = transpose_by_overlap_add(self.X, self.KERNEL, stride=2)
        equal(y, [[0, 0, 0, 1], [0, 0, 2, 3], [0, 2, 0, 3], [4, 6, 6, 9]])

    def test_a_larger_stride_makes_a_larger_output(self):
        assert [conv_transpose_size(2, 2, s) for s in (1, 2, 3)] == [3, 4, 5]

    def test_2x2_k3_s2_p1_makes_3x3_and_cropping_is_right(self):
        """The document calls cropping p rows wrong because it gives 3×3 "instead of 4×4"; so does its own formula."""
        x = np.array([[1, 2], [3, 4]])
        assert conv_transpose_size(2, kernel_size=3, stride=2, padding=1) == (2 - 1) * 2 + 3 - 2 * 1 == 3
        cropped = transpose_by_overlap_add(x, COUNTING, stride=2)[1:-1, 1:-1]
        for transpose in (transpose_by_matrix, transpose_by_zero_insertion):
            equal(cropped, transpose(x, COUNTING, stride=2, padding=1))

    def test_2x2_k3_s2_p1_makes_4x4_with_an_output_padding_of_1(self):
        assert conv_transpose_paddings(2, 4, kernel_size=3, stride=2) == [(1, 1)]

    def test_values_on_the_outputs_padding_are_dropped(self):
        """The document's own solution, an output surrounded by padding, is the crop that it rejects."""
        x = np.array([[1, 2], [3, 4]])
        padded = np.zeros((3 + 2, 3 + 2))
        for (row, column), value in np.ndenumerate(x):
            padded[2 * row : 2 * row + 3, 2 * column : 2 * column + 3] += value * COUNTING
        equal(padded[1:-1, 1:-1], transpose_by_matrix(x, COUNTING, stride=2, padding=1))

    def test_step_1_the_new_parameters(self):
        for k, s, p in ((3, 2, 1), (3, 1, 0), (4, 3, 2)):
            step = zero_insertion(3, k, s, p)
            assert (step.zeros, step.padding, step.stride) == (s - 1, k - p - 1, 1)

    def test_step_2_one_zero_between_pixels_makes_2i_minus_1(self):
        assert [zero_insertion(i, 3, stride=2).inserted_size for i in (1, 2, 3, 4)] == [2 * i - 1 for i in (1, 2, 3, 4)]

    def test_steps_3_and_4_pad_and_convolve(self):
        spread = np.array([[1, 0, 2], [0, 0, 0], [3, 0, 4]])
        flipped = COUNTING[::-1, ::-1]
        equal(convolve(spread, flipped, padding=1), transpose_by_matrix([[1, 2], [3, 4]], COUNTING, 2, padding=1))

    def test_o_is_i_minus_1_times_s_plus_k_minus_2p(self):
        for i, s, k, p in ((2, 1, 2, 0), (2, 2, 2, 0), (3, 2, 3, 1), (3, 2, 3, 0), (4, 3, 5, 2)):
            assert conv_transpose_size(i, k, s, p) == (i - 1) * s + k - 2 * p

    def test_3x3_to_5x5_with_k3_s2_p1(self):
        assert conv_size(5, kernel_size=3, stride=2, padding=1) == 3
        step = zero_insertion(3, kernel_size=3, stride=2, padding=1)
        assert (step.zeros, step.padding, step.stride, step.inserted_size, step.output_size) == (1, 1, 1, 5, 5)


class TestKerasCode:
    """Execution of the layers in the documents."""

    def test_000_conv_2d_transpose_k2_s2_same_doubles(self):
        layer = keras.layers.Conv2DTranspose(128, (2, 2), strides=2, padding="same", kernel_initializer="he_normal")
        assert layer(np.zeros((1, 3, 4, 2), "float32")).shape == (1, 6, 8, 128)

    def test_004_conv_2d_transpose_valid_makes_3x3_into_7x7(self):
        layer = keras.layers.Conv2DTranspose(filters=6, kernel_size=(3, 3), strides=(2, 2), padding="valid")
        assert layer(np.zeros((1, 3, 3, 3), "float32")).shape == (1, 7, 7, 6)
        assert conv_transpose_size(3, kernel_size=3, stride=2) == 7
