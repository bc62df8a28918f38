"""What every upsampler shares: the learned projection, the ×2 rule, the crop to the skip."""

import math

import keras
from keras import ops


class Upsampler(keras.Layer):
    """Enlarge a feature map ×2 and crop it to the skip connection it will be joined with.

    A subclass states one thing, its rule: :meth:`upsample` turns ``(B, h, w, C)`` into ``(B, 2h, 2w, C)``. The
    base class spends the learned projection, a 2×2 convolution from the input's channels to ``filters`` at *low*
    resolution, so that every upsampler has the parameters and multiply-adds of a 2×2 stride-2 transposed
    convolution (4·C_in·filters per low-resolution pixel), and what it does beyond that is its own cost.

    Args:
        filters: Output channels. ``None`` leaves the projection out: the bare rule, on the input's own channels.
        activation: Applied to the result, before the crop. ``None`` is linear.
        kernel_initializer: For the projection.
        **kwargs: ``name``, ``dtype`` and the other arguments of ``keras.Layer``.

    Call arguments:
        x: ``(B, h, w, C_in)``.
        skip: ``(B, H, W, C_skip)`` with ``h = ceil(H/2)``, ``w = ceil(W/2)``; only its size is used here. ``None``
            gives the full ``(B, 2h, 2w, filters)``.
        argmax: int32 ``(B, h, w, filters)``, from :class:`~unet.upsamplers.MaxPoolWithArgmax`; used where
            ``needs_argmax`` is true.

    Returns:
        ``(B, H, W, filters)`` in the compute dtype.
    """

    needs_argmax = False

    def __init__(self, filters=None, activation=None, kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        if filters is not None and (not isinstance(filters, int) or filters < 1):
            raise ValueError(f"filters must be a positive integer or None, received {filters!r}")
        self.filters = filters
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.projection = self.make_projection()

    def make_projection(self):
        """Make the layer that spends the learned weights, or ``None`` where ``filters`` is ``None``."""
        if self.filters is None:
            return None
        return keras.layers.Conv2D(
            self.filters,
            2,
            padding="same",
            kernel_initializer=self.kernel_initializer,
            dtype=self.dtype_policy,
            name="projection",
        )

    def upsample(self, x, width=None, argmax=None):
        """Apply the rule: ``(B, h, w, C)`` to ``(B, 2h, 2w, C)``.

        Args:
            x: The projected feature map.
            width: Width in pixels of the image the argmax was taken on.
            argmax: See the class.
        """
        raise NotImplementedError

    def multiply_adds(self, x_shape) -> int:
        """Multiply-adds for one image; ``x_shape`` is ``(h, w, C_in)``. The layer must have been built."""
        h, w, channels = x_shape
        if self.projection is None:
            return self.rule_multiply_adds((h, w, channels))
        return h * w * math.prod(self.projection.kernel.shape) + self.rule_multiply_adds((h, w, self.filters))

    def rule_multiply_adds(self, x_shape) -> int:
        """Multiply-adds of the rule alone for one image; ``x_shape`` is ``(h, w, C)`` after the projection."""
        return 0

    def build(self, x_shape, skip_shape=None, argmax_shape=None):
        """Create the projection's weights; shapes as in the call."""
        if self.projection is not None:
            self.projection.build(x_shape)
        if self.needs_argmax:
            channels = self.filters or x_shape[-1]
            if argmax_shape is None:
                raise ValueError(
                    f"{type(self).__name__} puts values back where the pooling found them: call it as "
                    "layer(x, skip, argmax) with the argmax of MaxPoolWithArgmax"
                )
            if argmax_shape[-1] != channels:
                raise ValueError(
                    f"{type(self).__name__} has {channels} channels but the argmax has {argmax_shape[-1]}: "
                    f"each channel needs its own positions, so filters must be {argmax_shape[-1]}"
                )
        super().build(x_shape)

    def call(self, x, skip=None, argmax=None):
        """Project, enlarge, crop."""
        if self.projection is not None:
            x = self.projection(x)
        width = 2 * ops.shape(x)[2] if skip is None else ops.shape(skip)[2]
        y = self.activation(self.upsample(x, width=width, argmax=argmax))
        if skip is None:
            return y
        return y[:, : ops.shape(skip)[1], : ops.shape(skip)[2], :]

    def compute_output_shape(self, x_shape, skip_shape=None, argmax_shape=None):
        """``(B, H, W, filters)``."""
        batch, *size, channels = x_shape
        size = [None if n is None else 2 * n for n in size] if skip_shape is None else skip_shape[1:3]
        return (batch, *size, self.filters or channels)

    def get_config(self):
        """Everything needed to build the layer again."""
        return super().get_config() | {
            "filters": self.filters,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
