"""Deep supervision (Lee et al. 2015, arXiv:1409.5185): losses on the coarser decoder stages, in training only."""

from collections.abc import Callable

import keras
from keras import layers, ops

from unet.blocks import TwoClassLogits, seed_of, seeded
from unet.resample import resize
from unet.upsamplers import Upsampler


def with_stage_logits(network: keras.Model) -> keras.Model:
    """Add logits of every decoder stage but the last to a network, each by a 1×1 convolution of its own.

    Args:
        network: Network from :func:`unet.model.build_unet`; it does not change, and its layers are shared.

    Returns:
        Model from pixels to a list of logits: those of the network, then of the stages at strides 2, 4, …, float32
        ``(B, ceil(H/s), ceil(W/s), classes)``.
    """
    # Every upsampler but the first, which has the bottleneck, has the output of a decoder stage as its input.
    upsamplers = [layer for layer in network.layers if isinstance(layer, Upsampler)]
    stages = [layer.input[0] for layer in reversed(upsamplers[1:])]
    final = network.get_layer("logits")
    initializer = final.kernel_initializer
    logits = []
    for number, features in enumerate(stages, start=2):
        name = f"logits_{number}"
        head = layers.Conv2D(
            final.filters,
            1,
            data_format="channels_last",
            kernel_initializer=seeded(initializer, seed_of(initializer.get_config().get("seed", 0), name)),
            dtype="float32",
            name=name,
        )
        of_stage = head(features)
        if isinstance(network.layers[-1], TwoClassLogits):
            of_stage = TwoClassLogits(dtype="float32", name=f"two_class_{name}")(of_stage)
        logits.append(of_stage)
    return keras.Model(network.inputs, [network.output, *logits], name="supervised_network")


def stage_loss(loss: Callable, mask, stage_logits: list):
    """Weighted mean of the losses of coarser decoder stages; weights halve from stage to stage and sum to 1.

    The mask is resized to each stage by nearest neighbour, as in nnU-Net (Isensee et al. 2021). Enlarging the logits
    instead would take the memory and time of a loss at full size for every stage, and ask coarse maps for detail they
    cannot hold. In nnU-Net the weights halve too, but include the loss at full size, and that of the coarsest stage is
    0.

    Args:
        loss: Loss of (mask, logits).
        mask: Class ids ``(B, H, W)``.
        stage_logits: Logits of the stages, beginning with the finest.
    """
    weights = [2.0**-number for number in range(len(stage_logits))]
    total = 0.0
    for weight, logits in zip(weights, stage_logits, strict=True):
        height, width = ops.shape(logits)[1:3]
        total += weight / sum(weights) * loss(_resized(mask, height, width), logits)
    return total


def _resized(mask, height, width):
    """Mask at another size, int32; each target pixel is the source pixel in its centre."""
    return ops.cast(ops.round(resize(mask[..., None], height, width, method="nearest")[..., 0]), "int32")
