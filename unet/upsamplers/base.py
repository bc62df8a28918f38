"""Base class of the upsamplers: learned projection, ×2 rule, crop to the skip."""

import math

import keras
from keras import ops

from unet.upsamplers.settings import Options


class Upsampler(keras.Layer):
    """Upsample a feature map by 2 and crop it to the size of a skip connection.

    A subclass defines its rule: :meth:`upsample` maps ``(B, h, w, C)`` to ``(B, 2h, 2w, C)``. The base class applies
    the learned projection before it, a 2×2 convolution from the input's channels to ``filters`` at *low* resolution.
    So every upsampler has at least the parameters and multiply-adds of a 2×2 transposed convolution with stride 2
    (4·C_in·filters per low-resolution pixel), and differences in cost are those of the rules.

    A rule with weights creates them in :meth:`build_rule`. The arguments of a subclass are its options in YAML; those
    that are keyword-only (after ``*``) generalize the layer for use outside a decoder.

    Args:
        filters: Output channels. ``None`` omits the projection: the bare rule, applied to the input's channels.
        activation: Activation of the upsampled map; ``None`` for none.
        kernel_initializer: Initializer of the projection's kernel.
        seed: Seed of the rule's own weights; ``None`` for a random one.
        options: The subclass' options, checked; set as attributes and saved by ``get_config``.
        **kwargs: ``name``, ``dtype`` and other arguments of ``keras.Layer``.

    Call arguments:
        x: Feature map ``(B, h, w, C_in)``.
        skip: ``(B, H, W, C_skip)`` with ``h = ceil(H/2)`` and ``w = ceil(W/2)``; only its size is used unless
            ``needs_skip`` is true. Without it the output is not cropped: ``(B, 2h, 2w, filters)``.
        argmax: int32 ``(B, h, w, filters)`` from :class:`~unet.upsamplers.MaxPoolWithArgmax`; used only if
            ``needs_argmax`` is true.

    Returns:
        ``(B, H, W, filters)`` in the compute dtype.
    """

    needs_argmax = False
    """Whether the call needs ``argmax``."""
    needs_skip = False
    """Whether the rule uses the content of ``skip``, not only its size."""

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
        """Create the layer that is applied before the rule, or ``None``."""
        return self.convolution(self.filters, 2, "projection", self.kernel_initializer)

    def upsample(self, x, skip=None, argmax=None):
        """Apply the rule to the projected map: ``(B, h, w, C)`` to ``(B, 2h, 2w, C)``."""
        raise NotImplementedError

    def check_doubles(self) -> None:
        """Raise a ValueError if the result is not at least twice the size, as a decoder needs."""
        self.options.check_doubles()

    def build_rule(self, channels: int, skip_channels: int | None) -> None:
        """Create the rule's weights for a projected map of ``channels``; ``skip_channels`` is None without a skip."""

    def multiply_adds(self, x_shape) -> int:
        """Multiply-adds for one image of ``x_shape`` ``(h, w, C_in)``; requires a built layer."""
        h, w, _ = x_shape
        learned = 0 if self.projection is None else h * w * math.prod(self.projection.kernel.shape)
        return learned + self.rule_multiply_adds((h, w, self.projected(x_shape[-1])))

    def rule_multiply_adds(self, x_shape) -> int:
        """Multiply-adds of the rule alone for one projected map of ``x_shape`` ``(h, w, C)``."""
        return 0

    def projected(self, channels: int) -> int:
        """Channels of the projected map, given those of the input."""
        return self.filters or channels

    def build(self, x_shape, skip_shape=None, argmax_shape=None):
        name = type(self).__name__
        channels = self.projected(x_shape[-1])
        if self.needs_skip and skip_shape is None:
            raise ValueError(f"{name} is guided by the skip connection: call it as layer(x, skip)")
        if self.needs_argmax and argmax_shape is None:
            raise ValueError(
                f"{name} needs the positions of the pooled maxima: call it as layer(x, skip, argmax) with the argmax "
                "of MaxPoolWithArgmax"
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
        if self.projection is not None:
            x = self.projection(x)
        y = self.activation(self.upsample(x, skip, argmax))
        if skip is None or (y.shape[1:3] == skip.shape[1:3] and None not in y.shape[1:3]):
            return y
        return y[:, : ops.shape(skip)[1], : ops.shape(skip)[2], :]

    def compute_output_shape(self, x_shape, skip_shape=None, argmax_shape=None):
        batch, *size, channels = x_shape
        size = [n and self.enlarged(n) for n in size] if skip_shape is None else skip_shape[1:3]
        return (batch, *size, self.output_channels(channels))

    def output_channels(self, channels: int) -> int:
        """Channels of the output, given those of the input."""
        return self.filters or channels

    def enlarged(self, size: int) -> int:
        """Height or width of the output without a skip, given that of the input."""
        return 2 * size

    def convolution(self, filters: int, kernel_size: int, name: str, initializer, **kwargs) -> keras.layers.Conv2D:
        """Create a convolution with padding "same" and the layer's dtype policy."""
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
        """Seed of the rule's weight number ``index``, or ``None`` without a seed."""
        return None if self.seed is None else self.seed + index

    def get_config(self):
        return super().get_config() | {
            "filters": self.filters,
            "activation": keras.activations.serialize(self.activation),
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "seed": self.seed,
            **self.options.model_dump(),
        }


def check_positive(**arguments) -> None:
    """Raise a ValueError that names the first argument that is not a positive integer."""
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive integer, received {value!r}")
