"""Mathematics of each upsampler beyond ``test_parity.py``: all of PyTorch's semantics, the seed documents, claims."""

import itertools

import keras
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from keras import ops

from benchmarks.gradients import gradient
from tests.helpers import BACKEND, SLOW_BEYOND_TENSORFLOW
from unet.arithmetic import conv_transpose_sizes, transpose_by_overlap_add
from unet.upsamplers import (
    ICNR,
    BedOfNails,
    Bicubic,
    Bilinear,
    BilinearAdditive,
    Carafe,
    ConvTranspose,
    DySample,
    Fade,
    MaxPoolWithArgmax,
    MaxUnpool,
    Nearest,
    PixelShuffle,
    ResizeConv,
    Sapa,
)
from unet.upsamplers.convolution import tiled

pytestmark = SLOW_BEYOND_TENSORFLOW


def nchw(x):
    return torch.tensor(np.asarray(x)).permute(0, 3, 1, 2)


def nhwc(x):
    return x.permute(0, 2, 3, 1).detach().numpy()


def values(x):
    return ops.convert_to_numpy(x)


def plane(rows):
    """An image of one channel."""
    return np.array(rows, "float32")[None, ..., None]


class TestInterpolation:
    def test_nearest_unpooling_of_the_seed_document(self):
        expected = [[1, 1, 2, 2], [1, 1, 2, 2], [3, 3, 4, 4], [3, 3, 4, 4]]
        np.testing.assert_array_equal(values(Nearest()(plane([[1, 2], [3, 4]])))[0, ..., 0], expected)

    def test_bilinear_of_the_seed_document(self):
        expected = [
            [6.0, 7.3333, 8.6667, 10.0],
            [7.0, 8.2222, 9.4444, 10.6667],
            [8.0, 9.1111, 10.2222, 11.3333],
            [9.0, 10.0, 11.0, 12.0],
        ]
        y = values(Bilinear(align_corners=True)(plane([[6, 10], [9, 12]])))[0, ..., 0]
        np.testing.assert_allclose(y, expected, atol=1e-4)

    @pytest.mark.parametrize(("layer", "interpolation"), [(Nearest(), "nearest"), (Bilinear(), "bilinear")])
    def test_upsampling2d_of_the_seed_document(self, layer, interpolation):
        x = plane(np.arange(12).reshape(3, 4))
        theirs = keras.layers.UpSampling2D(2, interpolation=interpolation)(x)
        np.testing.assert_allclose(values(layer(x)), values(theirs), atol=1e-5)

    @pytest.mark.parametrize("a", [-0.5, -0.75])
    def test_bicubic_with_either_slope_is_the_convolution_with_keys_kernel(self, a):
        """On a 1-D step, from the kernel's formula: weights at distances 1.25, 0.25, 0.75, 1.75."""
        x = np.zeros((1, 1, 12, 1), "float32")
        x[0, 0, 6:] = 1
        y = values(Bicubic(a=a)(x))[0, 0, :, 0]

        def near(d):
            return (a + 2) * d**3 - (a + 3) * d**2 + 1

        def far(d):
            return a * (d**3 - 5 * d**2 + 8 * d - 4)

        weights = np.array([far(1.75), near(0.75), near(0.25), far(1.25)])  # of pixels 4, 5, 6, 7 for target 12
        assert weights.sum() == pytest.approx(1)
        assert y[12] == pytest.approx(weights[2:].sum(), abs=1e-6)
        assert y[11] == pytest.approx(1 - weights[2:].sum(), abs=1e-6)

    @pytest.mark.parametrize("a", ["cubic", True, 0.5, -2])
    def test_a_slope_outside_the_family_is_an_error(self, a):
        with pytest.raises(ValueError, match="a: must be"):
            Bicubic(a=a)

    @pytest.mark.parametrize("width", [1, 2, 15, 16, 17, 32, 33, 70])
    @pytest.mark.parametrize("make", [Bilinear, Bicubic])
    def test_every_length_of_the_band_product_equals_torch(self, rng, make, width):
        """The product is computed in blocks; lengths below, at, between and above whole blocks."""
        x = rng.normal(size=(1, 3, width, 2)).astype("float32")
        mode = "bilinear" if make is Bilinear else "bicubic"
        theirs = nhwc(F.interpolate(nchw(x), scale_factor=2, mode=mode))
        np.testing.assert_allclose(values(make()(x)), theirs, atol=5e-6)


class TestUnpooling:
    def test_bed_of_nails_of_the_seed_document(self):
        expected = [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]
        np.testing.assert_array_equal(values(BedOfNails()(plane([[1, 2], [3, 4]])))[0, ..., 0], expected)

    def test_max_unpooling_of_the_seed_document(self):
        pooled, argmax = MaxPoolWithArgmax()(plane(np.arange(1, 17).reshape(4, 4)))
        np.testing.assert_array_equal(values(pooled)[0, ..., 0], [[6, 8], [14, 16]])
        np.testing.assert_array_equal(values(argmax)[0, ..., 0], [[5, 7], [13, 15]])
        expected = [[0, 0, 0, 0], [0, 6, 0, 8], [0, 0, 0, 0], [0, 14, 0, 16]]
        np.testing.assert_array_equal(values(MaxUnpool()(pooled, argmax=argmax))[0, ..., 0], expected)

    def test_another_output_size_reads_the_positions_anew_as_the_seed_document_prints(self):
        """Its 5×5 example reads positions of a 4×4 image in a width of 5: values end up where no maximum was."""
        pooled, argmax = MaxPoolWithArgmax()(plane(np.arange(1, 17).reshape(4, 4)))
        expected = [[0, 0, 0, 0, 0], [6, 0, 8, 0, 0], [0, 0, 0, 14, 0], [16, 0, 0, 0, 0], [0, 0, 0, 0, 0]]
        y = MaxUnpool(output_size=(5, 5))(pooled, argmax=argmax)
        np.testing.assert_array_equal(values(y)[0, ..., 0], expected)

    def test_the_output_size_says_which_of_the_sizes_was_pooled(self, rng):
        """4×4 and 5×5 are both pooled to 2×2 if the remaining pixels are dropped."""
        x = rng.normal(size=(1, 5, 5, 1)).astype("float32")
        pooled, argmax = MaxPoolWithArgmax(ceil_mode=False)(x)
        y = values(MaxUnpool(output_size=(5, 5))(pooled, argmax=argmax))
        rows, columns = np.divmod(values(argmax).ravel(), 5)
        np.testing.assert_array_equal(y[0, rows, columns, 0], x[0, rows, columns, 0])
        assert np.count_nonzero(y) == 4

    @pytest.mark.parametrize("kind", ["normal", "ties", "negative"])
    @pytest.mark.parametrize("ceil_mode", [True, False])
    @pytest.mark.parametrize(
        ("size", "stride"), [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3), (3, 1), (3, 2), (3, 3), (4, 2)]
    )
    def test_pool_and_unpool_equal_torch(self, rng, size, stride, ceil_mode, kind):
        """Any window, stride and padding, with and without overlap; ties (the first is taken), negatives, odd sizes."""
        x = rng.normal(size=(2, 5, 7, 3)).astype("float32")
        if kind == "ties":
            x = rng.integers(0, 3, size=x.shape).astype("float32")
        if kind == "negative":
            x = -np.abs(x) - 1
        for padding in range(size // 2 + 1):
            options = {"padding": padding, "ceil_mode": ceil_mode}
            theirs, indices = F.max_pool2d(nchw(x), size, stride, return_indices=True, **options)
            pool = MaxPoolWithArgmax(size, stride, **options)
            pooled, argmax = pool(x)
            np.testing.assert_array_equal(values(pooled), nhwc(theirs))
            np.testing.assert_array_equal(values(argmax), nhwc(indices))
            assert tuple(pool.compute_output_spec(keras.KerasTensor(x.shape))[0].shape) == tuple(pooled.shape)
            unpool = MaxUnpool(pool_size=size, strides=stride, padding=padding, output_size=(5, 7))
            expected = torch.zeros(2, 3, 35).scatter(2, indices.flatten(2), theirs.flatten(2)).unflatten(2, (5, 7))
            np.testing.assert_array_equal(values(unpool(pooled, argmax=argmax)), nhwc(expected))

    def test_the_default_size_is_that_of_torch(self, rng):
        for size, stride, padding in [(2, 2, 0), (3, 3, 0), (3, 2, 1), (4, 3, 2)]:
            x = rng.normal(size=(1, 12, 11, 2)).astype("float32")
            theirs = F.max_pool2d(nchw(x), size, stride, padding)
            expected = [(n - 1) * stride - 2 * padding + size for n in theirs.shape[2:]]
            layer = MaxUnpool(pool_size=size, strides=stride, padding=padding)
            assert [layer.enlarged(n) for n in theirs.shape[2:]] == expected
            assert layer.compute_output_shape((1, *theirs.shape[2:], 2))[1:3] == tuple(expected)

    @pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 3)])
    def test_gradient_of_pool_and_unpool_equals_torch(self, rng, size, stride):
        x = rng.normal(size=(2, 6, 9, 3)).astype("float32")
        weights = rng.normal(size=x.shape).astype("float32")

        def ours(x):
            pooled, argmax = MaxPoolWithArgmax(size, stride)(x)
            unpool = MaxUnpool(pool_size=size, strides=stride, output_size=(6, 9))
            return ops.sum(ops.square(unpool(pooled, argmax=argmax)) * ops.convert_to_tensor(weights))

        tensor = nchw(x).requires_grad_()
        pooled, indices = F.max_pool2d(tensor, size, stride, ceil_mode=True, return_indices=True)
        (F.max_unpool2d(pooled, indices, size, stride, output_size=(6, 9)).square() * nchw(weights)).sum().backward()
        np.testing.assert_allclose(gradient(ours, x), nhwc(tensor.grad), atol=1e-5)

    def test_a_pixel_written_twice_keeps_the_last_value_and_sends_it_the_gradient(self):
        """Overlapping windows that share a maximum, with values that changed after pooling."""
        x, argmax = plane([[10, 20]]), np.array([1, 1], "int32").reshape(1, 1, 2, 1)
        layer = MaxUnpool(pool_size=2, strides=1, output_size=(2, 3))
        np.testing.assert_array_equal(values(layer(x, argmax=argmax))[0, ..., 0], [[0, 20, 0], [0, 0, 0]])
        slope = gradient(lambda x: ops.sum(layer(x, argmax=argmax)), x)
        np.testing.assert_array_equal(slope.ravel(), [0, 1])

    def test_infinite_values_elsewhere_stay_elsewhere(self):
        x = plane([[np.inf, 1], [2, 3]])
        pooled, argmax = MaxPoolWithArgmax()(x)
        np.testing.assert_array_equal(values(MaxUnpool()(pooled, argmax=argmax))[0, ..., 0], [[np.inf, 0], [0, 0]])

    def test_errors_name_what_is_wrong(self, rng):
        x = rng.normal(size=(1, 2, 2, 3)).astype("float32")
        with pytest.raises(ValueError, match="call it as layer"):
            MaxUnpool(4)(x)
        argmax = np.zeros((1, 2, 2, 3), "int32")
        with pytest.raises(ValueError, match="filters must be 3"):
            MaxUnpool(4)(x, argmax=argmax)
        with pytest.raises(ValueError, match="padding must be from 0 to half of pool_size 2"):
            MaxPoolWithArgmax(padding=2)
        with pytest.raises(ValueError, match="strides must be a whole number ≥ 1"):
            MaxPoolWithArgmax(strides=0)
        with pytest.raises(ValueError, match="in a decoder the pooling is 2×2"):
            MaxUnpool(pool_size=3)(x, np.zeros((1, 4, 4, 3), "float32"), argmax)
        with pytest.raises(ValueError, match="no window of 3 pixels fits"):
            MaxPoolWithArgmax(3, ceil_mode=False)(keras.Input((2, 9, 1)))


class TestConvTranspose:
    @pytest.mark.parametrize("size", [2, 3])
    def test_a_kernel_as_large_as_its_stride_is_a_matrix_product(self, size, rng):
        x, kernel = rng.normal(size=(2, 3, 5, 4)), rng.normal(size=(size, size, 3, 4))
        x, kernel = (ops.convert_to_tensor(values, "float32") for values in (x, kernel))
        expected = ops.conv_transpose(x, kernel, size, padding="same", data_format="channels_last")
        np.testing.assert_allclose(
            ops.convert_to_numpy(tiled(x, kernel)), ops.convert_to_numpy(expected), rtol=1e-5, atol=1e-5
        )

    @pytest.mark.skipif(BACKEND != "jax", reason="asks JAX for the program")
    @pytest.mark.parametrize(("size", "convolves"), [(2, False), (3, True), (4, True)])
    def test_xla_convolves_only_where_copies_overlap(self, size, convolves):
        import jax

        layer = ConvTranspose(3, size)
        layer.build((1, 4, 5, 2))
        assert ("conv_general_dilated" in str(jax.make_jaxpr(layer)(np.ones((1, 4, 5, 2), "float32")))) == convolves

    @pytest.mark.parametrize(
        ("kernel_size", "stride"),
        [
            pytest.param(kernel, stride, marks=[pytest.mark.slow] if kernel > 4 or stride > 2 else [])
            for kernel, stride in itertools.product(range(1, 7), range(1, 5))
        ],
    )
    def test_every_padding_output_padding_and_dilation_equals_torch(self, rng, kernel_size, stride):
        """All valid combinations; every seventh on backends that compile each of them."""
        x = rng.normal(size=(1, 2, 3, 2)).astype("float32")
        kernel = rng.normal(size=(kernel_size, kernel_size, 3, 2)).astype("float32")
        bias = rng.normal(size=3).astype("float32")
        cases = [
            (dilation, *pair)
            for dilation in (1, 2, 3)
            for pairs in conv_transpose_sizes(2, kernel_size, stride, dilation).values()
            for pair in pairs
        ]
        for dilation, padding, output_padding in cases if BACKEND != "jax" else cases[::7]:
            layer = ConvTranspose(3, kernel_size, padding, output_padding, strides=stride, dilation=dilation)
            layer.build(x.shape)
            layer.set_weights([kernel, bias])
            theirs = F.conv_transpose2d(
                nchw(x),
                torch.tensor(kernel).permute(3, 2, 0, 1),
                torch.tensor(bias),
                stride,
                padding,
                output_padding,
                dilation=dilation,
            )
            ours = values(layer(x))
            assert ours.shape == layer.compute_output_shape(x.shape) == nhwc(theirs).shape
            np.testing.assert_allclose(ours, nhwc(theirs), atol=1e-5, err_msg=str((dilation, padding, output_padding)))

    @pytest.mark.parametrize("kernel_size", range(1, 7))
    def test_same_padding_is_that_of_keras(self, rng, kernel_size):
        x = rng.normal(size=(1, 3, 4, 2)).astype("float32")
        layer, theirs = ConvTranspose(3, kernel_size), keras.layers.Conv2DTranspose(3, kernel_size, 2, padding="same")
        expected = theirs(x)
        layer.build(x.shape)
        layer.set_weights(theirs.get_weights())
        np.testing.assert_allclose(values(layer(x)), values(expected), atol=1e-6)

    def test_it_is_the_overlap_add_of_the_seed_documents(self, rng):
        x, kernel = rng.normal(size=(3, 4)), rng.normal(size=(3, 3))
        layer = ConvTranspose(1, 3, padding=1, output_padding=0)
        layer.build((1, 3, 4, 1))
        layer.set_weights([kernel[..., None, None], np.zeros(1)])
        y = values(layer(plane(x)))[0, ..., 0]
        np.testing.assert_allclose(y, transpose_by_overlap_add(x, kernel, stride=2, padding=1), atol=1e-6)

    @pytest.mark.parametrize("dilation", [1, 2])
    def test_without_output_padding_a_padding_reaches_twice_the_size_if_it_can(self, dilation):
        for kernel_size, padding in itertools.product(range(1, 7), range(3)):
            reached = conv_transpose_sizes(5, kernel_size, 2, dilation)
            if padding < dilation * (kernel_size - 1) + 1:
                size = ConvTranspose(3, kernel_size, padding, dilation=dilation).enlarged(5)
                sizes = [size for size, pairs in reached.items() if padding in {p for p, _ in pairs}]
                assert size == min(sizes, key=lambda size: (abs(size - 10) if size != 10 else -1, size))

    def test_paddings_that_fall_short_of_a_decoder_are_answered_with_those_that_do_not(self, rng):
        x, skip = rng.normal(size=(1, 2, 2, 3)), rng.normal(size=(1, 4, 4, 3))
        with pytest.raises(ValueError, match=r"choose \(padding, output_padding\) from \(0, 0\), \(0, 1\), \(1, 1\)$"):
            ConvTranspose(4, 3, padding=1, output_padding=0)(x, skip)
        with pytest.raises(ValueError, match="strides must be 2 in a decoder"):
            ConvTranspose(4, 3, strides=3)(x, skip)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({}, "requires filters"),
            ({"filters": 4, "kernel_size": 0}, "kernel_size: must be ≥ 1, received 0"),
            ({"filters": 4, "output_padding": 1}, "output_padding: needs padding"),
            ({"filters": 4, "padding": 2}, "padding: must be from 0 to 1 with kernel_size 2, received 2"),
            ({"filters": 4, "padding": 0, "output_padding": 2}, "output_padding: must be from 0 to 1"),
        ],
    )
    def test_errors_name_the_argument(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            ConvTranspose(**arguments)


class TestChannels:
    def test_pixel_shuffle_is_keras_depth_to_space(self, rng):
        x = rng.normal(size=(2, 3, 5, 12)).astype("float32")
        np.testing.assert_array_equal(values(PixelShuffle()(x)), values(ops.nn.depth_to_space(x, 2)))
        assert PixelShuffle().compute_output_shape(x.shape) == (2, 6, 10, 3)

    def test_icnr_starts_as_nearest_after_the_convolution(self, rng):
        x = rng.normal(size=(2, 3, 5, 6)).astype("float32")
        layer = PixelShuffle(4)
        y = values(layer(x))
        kernel = layer.projection.get_weights()[0][0, 0, :, :4]
        np.testing.assert_allclose(y, (x @ kernel).repeat(2, 1).repeat(2, 2), atol=1e-5)
        plain = values(PixelShuffle(4, icnr=False)(x))
        assert np.abs(plain[:, ::2] - plain[:, 1::2]).max() > 0.1

    def test_icnr_draws_with_the_initializer_it_is_given(self):
        kernel = values(ICNR(keras.initializers.Constant(0.5))((1, 1, 3, 8)))
        np.testing.assert_array_equal(kernel, np.full((1, 1, 3, 8), 0.5))
        again = keras.initializers.deserialize(keras.initializers.serialize(ICNR("he_normal")))
        assert isinstance(again.initializer, keras.initializers.HeNormal)

    def test_pixel_shuffle_with_the_same_weights_is_a_transposed_convolution_of_kernel_2(self, rng):
        x = rng.normal(size=(1, 3, 4, 5)).astype("float32")
        shuffle, transpose = PixelShuffle(2), ConvTranspose(2)
        shuffle.build(x.shape), transpose.build(x.shape)
        kernel, bias = rng.normal(size=(2, 2, 2, 5)), rng.normal(size=2)  # (i, j, out, in)
        transpose.set_weights([kernel, bias])
        weights = dict(zip((w.path.rsplit("/", 1)[1] for w in shuffle.weights), shuffle.weights))
        weights["kernel"].assign(kernel.transpose(3, 0, 1, 2).reshape(1, 1, 5, 8))
        weights["bias"].assign(bias)
        np.testing.assert_allclose(values(shuffle(x)), values(transpose(x)), atol=1e-5)

    @pytest.mark.parametrize("make", [PixelShuffle, BilinearAdditive])
    def test_channels_that_do_not_divide_by_four_are_an_error(self, make):
        with pytest.raises(ValueError, match="6 channels do not divide by 4"):
            make()(np.zeros((1, 2, 2, 6), "float32"))


class TestContentAware:
    def test_carafe_with_equal_kernels_is_the_mean_of_the_neighbourhood(self, rng):
        """Not renormalized at the border: the zeros around the image are part of the mean."""
        x = rng.normal(size=(1, 6, 7, 3)).astype("float32")
        layer = Carafe()
        layer.build(x.shape)
        layer.encoder.set_weights([np.zeros(w.shape) for w in layer.encoder.get_weights()])
        padded = np.pad(x, [(0, 0), (2, 2), (2, 2), (0, 0)])
        mean = sum(padded[:, i : i + 6, j : j + 7] for i in range(5) for j in range(5)) / 25
        np.testing.assert_allclose(values(layer(x)), mean.repeat(2, 1).repeat(2, 2), atol=1e-6)

    def test_carafe_upsamplers_parameters_are_those_of_the_paper(self):
        """Table 6: 74 k for 256 channels, k_up 5, k_encoder 3, 64 compressed channels."""
        layer = Carafe()
        layer.build((None, None, None, 256))
        assert layer.count_params() == 256 * 64 + 64 + 9 * 64 * 100 + 100 == 74148

    @pytest.mark.parametrize(
        ("style", "dynamic", "parameters"),
        [("lp", False, 8224), ("lp", True, 16416), ("pl", False, 520), ("pl", True, 1032)],
    )
    def test_dysample_has_the_authors_number_of_parameters(self, style, dynamic, parameters):
        layer = DySample(style=style, dynamic_scope=dynamic)
        layer.build((None, None, None, 256))
        assert layer.count_params() == parameters

    @pytest.mark.parametrize("style", ["lp", "pl"])
    def test_dysample_without_offsets_is_bilinear(self, rng, style):
        x = rng.normal(size=(1, 5, 6, 8)).astype("float32")
        layer = DySample(style=style)
        layer.build(x.shape)
        layer.set_weights([np.zeros(w.shape) for w in layer.weights])
        np.testing.assert_allclose(values(layer(x)), values(Bilinear()(x)), atol=1e-6)

    def test_dysample_keeps_its_place_in_half_precision(self, rng):
        """Positions beyond 256 have no quarter pixels in bfloat16: they are computed in float32."""
        x = np.tile(np.linspace(0, 1, 300, dtype="float32")[None, None, :, None], (1, 1, 1, 8))
        layer = DySample(dtype="mixed_bfloat16", seed=0)
        layer.build(x.shape)
        layer.set_weights([np.zeros(w.shape) for w in layer.weights])
        y = values(ops.cast(layer(x), "float32"))
        assert np.abs(y - values(Bilinear()(x))).max() < 0.01  # a rounded value, not the neighbour's

    def test_sapa_with_equal_similarities_is_the_mean_and_with_a_strong_one_copies_the_likest_pixel(self):
        """Pixels of the skip that resemble one side of an edge get the values of that side."""
        x = np.zeros((1, 4, 4, 2), "float32")
        x[:, :, :2, 0] = x[:, :, 2:, 1] = 1
        skip = np.repeat(np.repeat(x, 2, 1), 2, 2)
        skip[:, :, 3] = [0, 1]  # the edge is one pixel to the left of that of nearest neighbour
        layer = Sapa(embedding=2)
        layer(x, skip)
        layer.query.set_weights([10 * np.eye(2), np.zeros(2)])
        layer.key.set_weights([10 * np.eye(2), np.zeros(2)])
        y = values(layer(x, skip))
        np.testing.assert_allclose(y[:, 3:5], skip[:, 3:5], atol=1e-4)

    def test_fade_with_an_open_gate_is_the_skip_and_with_a_closed_one_does_not_hold_it(self, rng):
        x, skip = rng.normal(size=(1, 3, 3, 4)).astype("float32"), rng.normal(size=(1, 5, 6, 4)).astype("float32")
        layer = Fade()
        layer(x, skip)
        layer.gate.set_weights([np.zeros((1, 1, 4, 1)), np.full(1, 50.0)])
        np.testing.assert_allclose(values(layer(x, skip)), skip, atol=1e-6)
        layer.gate.set_weights([np.zeros((1, 1, 4, 1)), np.full(1, -50.0)])
        layer.encoder.set_weights([np.zeros(w.shape) for w in layer.encoder.get_weights()])
        np.testing.assert_array_equal(values(layer(x, skip)), values(layer(x, 2 * skip)))

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Carafe(k_up=4), "k_up: must be odd"),
            (lambda: Carafe(groups=0), "groups: must be ≥ 1, received 0"),
            (
                lambda: Carafe(groups=4)(np.zeros((1, 2, 2, 6))),
                "groups: 4 does not divide the 6 channels; choose from 1, 2, 3, 6",
            ),
            (lambda: DySample(groups=4)(np.zeros((1, 2, 2, 6))), "groups: 4 does not divide the 6 channels"),
            (lambda: DySample(style="pl", groups=2)(np.zeros((1, 2, 2, 6))), "6 channels do not divide by 4"),
            (lambda: DySample(style="xl"), 'style: "xl" is not one of lp, pl'),
            (lambda: Sapa(embedding=0), "embedding: must be ≥ 1"),
            (
                lambda: Fade()(np.zeros((1, 2, 2, 4)), np.zeros((1, 4, 4, 3))),
                "the same number of channels, received 3 and 4",
            ),
            (lambda: ResizeConv(kernel_size=2), "kernel_size: must be odd"),
        ],
    )
    def test_errors_name_the_option(self, make, message):
        with pytest.raises(ValueError, match=message):
            make()


def test_the_activation_comes_after_the_rule(rng):
    x = rng.normal(size=(1, 3, 3, 2)).astype("float32")
    linear, relu = Bilinear(4), Bilinear(4, activation="relu")
    linear(x), relu(x)
    relu.set_weights(linear.get_weights())
    np.testing.assert_allclose(values(relu(x)), np.maximum(values(linear(x)), 0), atol=1e-6)
    assert keras.activations.serialize(relu.activation) == "relu"


@pytest.mark.parametrize(
    "layer",
    [
        MaxPoolWithArgmax(3, 2, 1, ceil_mode=False),
        MaxUnpool(pool_size=3, strides=2, padding=1, output_size=(5, 7)),
        ConvTranspose(4, 3, 1, 0, strides=3, dilation=2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_arguments_for_use_outside_a_decoder_survive_saving(layer):
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()
