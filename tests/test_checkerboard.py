"""Phase dependence, compared with numbers computed by hand and with the derivation of Odena et al."""

import keras
import numpy as np
import pytest

from tests.helpers import SLOW_BEYOND_TENSORFLOW
from unet import checkerboard, upsamplers
from unet.arithmetic import overlap_count
from unet.model import build_unet

pytestmark = SLOW_BEYOND_TENSORFLOW

EVEN = [
    "nearest",
    "bilinear",
    "bicubic",
    "resize_conv",
    "pixel_shuffle",
    "bilinear_additive",
    "carafe",
    "dysample",
    "sapa",
]


def test_a_constant_has_none_and_a_single_nail_the_most():
    assert checkerboard.phase_dependence(np.ones((1, 4, 4, 2)), 2) == 0
    assert checkerboard.phase_dependence(np.zeros((1, 4, 4, 2)), 2) == 0
    nails = np.zeros((1, 4, 4, 1))
    nails[:, ::2, ::2] = 5
    assert checkerboard.phase_dependence(nails, 2) == pytest.approx(np.sqrt(3) / 2)
    with pytest.raises(ValueError, match="at least 4×4 pixels, received 3×9"):
        checkerboard.phase_dependence(np.zeros((1, 3, 9, 1)), 4)


def test_what_does_not_repeat_with_the_period_is_not_phase_dependence(rng):
    noise = rng.normal(size=(1, 512, 512, 1))
    assert checkerboard.phase_dependence(noise, 2) < 0.01
    columns = np.tile([1.0, 3.0, 1.0], 4)[None, None, :, None] * np.ones((1, 12, 12, 1))
    assert checkerboard.phase_dependence(columns, 2) == pytest.approx(0)
    assert checkerboard.phase_dependence(columns, 3) > 0.4


@pytest.mark.parametrize("kernel_size", [2, 3, 4])
def test_equal_weights_show_the_uneven_overlap_of_odena(kernel_size):
    """Kernel 3, stride 2: pixels are covered 1, 2, 2 and 4 times; kernels 2 and 4 cover evenly."""
    layer = upsamplers.ConvTranspose(1, kernel_size, kernel_initializer="ones")
    counts = overlap_count(8, kernel_size, 2)[4:8, 4:8]
    phases = np.array([counts[i::2, j::2].mean() for i in (0, 1) for j in (0, 1)])
    by_hand = phases.std() / np.sqrt((phases**2).mean())
    assert (by_hand > 0) == (kernel_size == 3)
    assert checkerboard.of_upsampler(layer, 1) == pytest.approx(by_hand, abs=1e-6)


@pytest.mark.parametrize("name", EVEN)
def test_interpolation_resize_convolution_and_icnr_have_none_at_initialization(name):
    assert checkerboard.of_upsampler(upsamplers.build(name, 8, seed=0), 16) < 1e-6


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("conv_transpose", {"kernel_size": 3}),
        ("conv_transpose", {}),
        ("pixel_shuffle", {"icnr": False}),
        ("bed_of_nails", {}),
        ("max_unpool", {}),
    ],
)
def test_learned_or_empty_places_of_a_cell_have_much(name, options):
    initializer = keras.initializers.GlorotUniform(seed=1)
    layer = upsamplers.build(name, 8, kernel_initializer=initializer, **options)
    assert checkerboard.of_upsampler(layer, 16) > 0.3


def test_a_network_shows_its_upsampler():
    def of(upsampler, **options):
        network = build_unet(3, width=8, depth=2, upsampler=upsampler, upsampler_options=options)
        return checkerboard.of_network(network, 2)

    assert of("nearest") < 1e-6
    assert of("conv_transpose", kernel_size=3) > 0.05


def test_harmonics_sum_to_the_phase_dependence(rng):
    """Parseval's theorem; and a pattern of two pixels across is the frequency of half a cycle a pixel."""
    response = rng.normal(size=(3, 16, 16, 2)) + 1
    amplitudes = checkerboard.harmonics(response, 8)
    assert np.sqrt((amplitudes**2).sum()) == pytest.approx(checkerboard.phase_dependence(response, 8))
    stripes = np.broadcast_to(np.where(np.arange(16) % 2, 1.0, 3.0)[None, None, :, None], (1, 16, 16, 1))
    amplitudes = checkerboard.harmonics(stripes, 8)
    assert amplitudes[4, 0] == pytest.approx(1 / np.sqrt(5))  # of mean 2 and deviation 1
    assert np.delete(amplitudes.ravel(), 4 * 8).max() < 1e-12
