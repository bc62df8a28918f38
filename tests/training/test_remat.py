"""Computing activations again gives the same training, and keeps less in between."""

import keras
import numpy as np
import pytest
from keras import ops

from tests.helpers import BACKEND, JIT, SLOW_BEYOND_TENSORFLOW
from unet import config
from unet.data.batches import Batches
from unet.data.cache import Split
from unet.model import build_unet
from unet.training import make_optimizer, make_trainer
from unet.training.remat import with_remat

MODELS = [
    pytest.param(("model.dropout=0.3", "model.upsampler=max_unpool", "model.depth=1"), marks=SLOW_BEYOND_TENSORFLOW),
    *(
        pytest.param(settings, marks=pytest.mark.slow)
        for settings in (
            ("model.decoder.attention=scse", "model.decoder.deep_supervision=0.5", "model.block=residual"),
            (
                "model.upsampler=bilinear",
                "model.decoder.attention=gate",
                "training.freeze_epochs=1",
                "training.precision=mixed_bfloat16",
            ),
            ("model.encoder=mobilenet_v2", "model.depth=3", "training.freeze_epochs=1"),
            *(
                (f"model.upsampler={name}", "model.depth=1")
                for name in ("bicubic", "carafe", "dysample", "fade", "sapa")
            ),
        )
    ),
]


def trained(path, settings, remat):
    """Losses of two epochs on images of noise, and all values of the network after them."""
    path.write_text(
        "data: {size: [19, 22]}\nmodel: {width: 4, depth: 2}\n"
        f"training: {{epochs: 2, batch_size: 2, warmup: 0, jit: {JIT}, remat: {str(remat).lower()}}}\n"
    )
    loaded = config.load(path, settings)
    keras.utils.set_random_seed(0)
    trainer = make_trainer(loaded, ("a", "b", "c"))
    trainer.compile(optimizer=make_optimizer(loaded.training, 2), jit_compile=loaded.training.jit)
    trainer.optimizer.build(trainer.trainable_variables)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (4, 19, 22, 3)).astype("uint8")
    split = Split(pixels, rng.integers(0, 3, (4, 19, 22)).astype("uint8"), list("abcd"))
    losses = []
    for epoch in range(2):
        if loaded.training.freeze_epochs:
            trainer.freeze_encoder(epoch == 0)
        losses += trainer.fit(Batches(split, 2, 0), shuffle=False, verbose=0).history["loss"]
    return losses, [ops.convert_to_numpy(variable).astype("float32") for variable in trainer.network.variables]


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_training_is_the_same(model, tmp_path):
    losses, values = trained(tmp_path / "t.yaml", model, remat=False)
    again, found = trained(tmp_path / "t.yaml", model, remat=True)
    tolerance = 2e-2 if "training.precision=mixed_bfloat16" in model else 1e-4
    np.testing.assert_allclose(again, losses, rtol=tolerance)
    for expected, value in zip(values, found, strict=True):
        np.testing.assert_allclose(value, expected, atol=tolerance * max(1, np.abs(expected).max()))


@pytest.mark.skipif(BACKEND == "tensorflow", reason="TensorFlow does not list what it keeps for the gradient")
def test_what_is_kept_are_the_tensors_between_stages():
    network = build_unet(3, width=8, depth=2)
    pixels = np.zeros((2, 64, 64, 3), "float32")
    every, between = kept(network, network, pixels), kept(with_remat(network), network, pixels)
    skips = 2 * 64 * 64 * 8 * 4 * (1 + 1 / 2)
    assert skips < between < 4 * skips
    assert every > 4 * between


def kept(call, network, pixels):
    """Bytes of the tensors that are kept for the gradient of ``call(pixels)`` in training."""
    if BACKEND == "torch":
        import torch

        found = {}

        def keep(tensor):
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes(), tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            call(torch.from_numpy(pixels), training=True)
        return sum(size for size, _ in found.values())
    from jax._src.ad_checkpoint import saved_residuals

    def outputs(values):
        with keras.StatelessScope(state_mapping=list(zip(network.trainable_variables, values, strict=True))):
            return ops.sum(call(pixels, training=True))

    residuals = saved_residuals(outputs, [variable.value for variable in network.trainable_variables])
    return sum(kind.size * kind.dtype.itemsize for kind, _ in residuals)
