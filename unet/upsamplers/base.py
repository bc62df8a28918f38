"""What every upsampler shares: the learned projection, the ×2 rule, the crop to the skip."""

import math

import keras
from keras import ops

from unet.upsamplers.settings import Options


class Upsampler(keras.Layer):
    """Enlarge a feature map ×2 and crop it to the skip connection it will be joined with.

    A subclass states one thing, its rule: :meth:`upsample` turns ``(B, h, w, C)`` into ``(B, 2h, 2w, C)``. The
    base class spends the learned projection, a 2×2 convolution from the input's channels to ``filters`` at *low*
    resolution, so that every upsampler has the parameters and multiply-adds of a 2×2 stride-2 transposed
    convolution (4·C_in·filters per low-resolution pixel), and what it does beyond that is its own cost.

    A rule with weights of its own makes them in :meth:`build_rule`. A constructor argument of a subclass is an
    option in YAML; keyword-only ones (after ``*``) change more than a decoder allows and are for use outside it.

    Args:
        filters: Output channels. ``None`` leaves the projection out: the bare rule, on the input's own channels.
        activation: Applied to the result, before the crop. ``None`` is linear.
        kernel_initializer: For the projection.
        seed: Decides the initial values of the rule's own weights; ``None`` draws a seed.
        **kwargs: ``name``, ``dtype`` and the other arguments of ``keras.Layer``.

    Call arguments:
        x: ``(B, h, w, C_in)``.
        skip: ``(B, H, W, C_skip)`` with ``h = ceil(H/2)``, ``w = ceil(W/2)``; only its size is used, unless
            ``needs_skip`` is true. ``None`` gives the full ``(B, 2h, 2w, filters)``.
        argmax: int32 ``(B, h, w, filters)``, from :class:`~unet.upsamplers.MaxPoolWithArgmax`; used where
            ``needs_argmax`` is true.

    Returns:
        ``(B, H, W, filters)`` in the compute dtype.
    """

    needs_argmax = False
    needs_skip = False

    def __init__(
        self,
        filters=None,
        activation=None,
        kernel_initializer="glorot_uniform",
        seed=None,
        *,
        options: Options | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.options = options or Options()
        for name, value in self.options:
            setattr(self, name, value)
        if filters is not None:
            check_positive(filters=filters)
        self.filters = filters
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.seed = seed
        self.projection = None if filters is None else self.make_projection()

    def make_projection(self) -> keras.Layer | None:
        """Make the layer that spends the learned weights at low resolution."""
        return self.convolution(self.filters, 2, "projection", self.kernel_initializer)

    def upsample(self, x, skip=None, argmax=None):
        """Apply the rule: ``(B, h, w, C)`` to ``(B, 2h, 2w, C)``; arguments as in the call, ``x`` projected."""
        raise NotImplementedError

    def check_doubles(self) -> None:
        """Raise a ValueError if the result is not at least twice the size, as a decoder needs."""
        self.options.check_doubles()

    def build_rule(self, channels: int, skip_channels: int | None) -> None:
        """Make the rule's own weights, for ``channels`` after the projection and those of the skip (None: no skip)."""

    def multiply_adds(self, x_shape) -> int:
        """Multiply-adds for one image; ``x_shape`` is ``(h, w, C_in)``. The layer must have been built."""
        h, w, _ = x_shape
        learned = 0 if self.projection is None else h * w * math.prod(self.projection.kernel.shape)
        return learned + self.rule_multiply_adds((h, w, self.projected(x_shape[-1])))

    def rule_multiply_adds(self, x_shape) -> int:
        """Multiply-adds of the rule alone for one image; ``x_shape`` is ``(h, w, C)`` after the projection."""
        return 0

    def projected(self, channels: int) -> int:
        """Channels that the rule works on, from those of the input."""
        return self.filters or channels

    def build(self, x_shape, skip_shape=None, argmax_shape=None):
        """Create all weights; shapes as in the call."""
        name = type(self).__name__
        channels = self.projected(x_shape[-1])
        if self.needs_skip and skip_shape is None:
            raise ValueError(f"{name} is guided by the skip connection: call it as layer(x, skip)")
        if self.needs_argmax and argmax_shape is None:
            raise ValueError(
                f"{name} puts values back where the pooling found them: call it as "
                "layer(x, skip, argmax) with the argmax of MaxPoolWithArgmax"
            )
        if self.needs_argmax and argmax_shape[-1] != channels:
            raise ValueError(
                f"{name} has {channels} channels but the argmax has {argmax_shape[-1]}: "
                f"each channel needs its own positions, so filters must be {argmax_shape[-1]}"
            )
        if skip_shape is not None:
            self.check_doubles()
        self.options.check_channels(channels)
        if self.projection is not None:
            self.projection.build(x_shape)
        self.build_rule(channels, None if skip_shape is None else skip_shape[-1])
        super().build(x_shape)

    def call(self, x, skip=None, argmax=None):
        """Project, enlarge, crop."""
        if self.projection is not None:
            x = self.projection(x)
        y = self.activation(self.upsample(x, skip, argmax))
        if skip is None or (y.shape[1:3] == skip.shape[1:3] and None not in y.shape[1:3]):
            return y
        return y[:, : ops.shape(skip)[1], : ops.shape(skip)[2], :]

    def compute_output_shape(self, x_shape, skip_shape=None, argmax_shape=None):
        """``(B, H, W, filters)``."""
        batch, *size, channels = x_shape
        size = [n and self.enlarged(n) for n in size] if skip_shape is None else skip_shape[1:3]
        return (batch, *size, self.output_channels(channels))

    def output_channels(self, channels: int) -> int:
        """Channels of the result, from those of the input."""
        return self.filters or channels

    def enlarged(self, size: int) -> int:
        """Height or width of the result without a skip."""
        return 2 * size

    def convolution(self, filters: int, kernel_size: int, name: str, initializer, **kwargs) -> keras.layers.Conv2D:
        """Make a 'same' convolution in the layer's dtype policy."""
        return keras.layers.Conv2D(
            filters,
            kernel_size,
            padding="same",
            kernel_initializer=initializer,
            dtype=self.dtype_policy,
            name=name,
            **kwargs,
        )

    def rule_seed(self, index: int) -> int | None:
        """Seed of the rule's weight number ``index``."""
        return None if self.seed is None else self.seed + index

    def get_config(self):
        """Everything needed to build the layer again."""
        return super().get_config() | {
            "filters": self.filters,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "seed": self.seed,
            **self.options.model_dump(),
        }


def check_positive(**arguments) -> None:
    """Raise a ValueError that names the argument that is not a whole number of at least 1."""
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, received {value!r}")
