"""Base class of the upsamplers: learned projection, ×2 rule, crop to the skip."""

import math

import keras
from keras import ops

from unet.arguments import whole
from unet.upsamplers.settings import Options

OWN_SEEDS = 4
"""Number of seeds that a rule may use for its own weights; the next is that of the projection."""
LARGEST_SEED = 2**32 - 1 - OWN_SEEDS
"""JAX takes seeds of 32 bits."""


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
        seed: Seed of the weights, from 0 to ``LARGEST_SEED``: layers with equal arguments start with equal weights. An
            initializer that has a seed of its own keeps it. ``None`` for random weights.
        options: The subclass' options, checked; set as attributes and saved by ``get_config``.
        **kwargs: ``name``, ``dtype`` and other arguments of ``keras.Layer``.

    Call arguments:
        x: Feature map ``(B, h, w, C_in)``.
        skip: ``(B, H, W, C_skip)`` with ``h = ceil(H/2)`` and ``w = ceil(W/2)``; only its size is used unless
            ``needs_skip`` is true. Without it the output is not cropped: ``(B, 2h, 2w, filters)``.
        argmax: int32 ``(B, h, w, filters)`` from :class:`~unet.upsamplers.MaxPoolWithArgmax`; used only if
            ``needs_argmax`` is true.

    Maps of any dtype are computed in the compute dtype, and channels are last whatever Keras' image data format is.

    Returns:
        ``(B, H, W, filters)`` in the compute dtype.

    Raises:
        ValueError: A shape or dtype does not match, or a map has no pixels. Sizes that are unknown when a graph is
            traced are not checked.
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
            filters = whole("filters", filters, least=1)
        self.filters = filters
        self.activation = keras.activations.get(activation)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.seed = None if seed is None else whole("seed", seed, least=0, most=LARGEST_SEED)
        self.input_spec = keras.layers.InputSpec(ndim=4)
        self.projection = None if filters is None else self.make_projection()

    def make_projection(self) -> keras.Layer | None:
        """Create the layer that is applied before the rule, or ``None``."""
        return self.convolution(self.filters, 2, "projection", self.seeded_initializer())

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
        check_map("x", x_shape)
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
        self.check_shapes(x_shape, skip_shape, argmax_shape)
        if skip_shape is not None:
            self.check_doubles()
        self.options.check_channels(channels)
        if self.projection is not None:
            self.projection.build(x_shape)
        self.build_rule(channels, None if skip_shape is None else skip_shape[-1])
        self.input_spec = keras.layers.InputSpec(ndim=4, axes={-1: x_shape[-1]})
        super().build(x_shape)

    def check_shapes(self, x_shape, skip_shape=None, argmax_shape=None) -> None:
        """Raise a ValueError if shapes do not match; sizes that are not integers are unknown, and pass."""
        check_map("x", x_shape)
        if skip_shape is not None:
            check_map("skip", skip_shape)
            if any(_differ((n + 1) // 2, m) for n, m in zip(skip_shape[1:3], x_shape[1:3]) if isinstance(n, int)):
                height, width = ("?" if not isinstance(n, int) else f"{2 * n - 1} or {2 * n}" for n in x_shape[1:3])
                raise ValueError(
                    f"skip {_text(skip_shape)} does not match x {_text(x_shape)}: its height must be {height} and its "
                    f"width {width}, so that 2×2 pooling gives the size of x"
                )
            if self.needs_skip and _differ(skip_shape[0], x_shape[0]):
                raise ValueError(f"skip {_text(skip_shape)} and x {_text(x_shape)} must have the same batch size")
        if self.needs_argmax and argmax_shape is not None:
            pooled = (*x_shape[:3], self.projected(x_shape[-1]))
            if len(argmax_shape) != 4 or any(map(_differ, argmax_shape, pooled)):
                raise ValueError(
                    f"argmax {_text(argmax_shape)} does not match the map of shape {_text(pooled)} to upsample: each "
                    "value needs its own position"
                )

    def call(self, x, skip=None, argmax=None):
        self.check_shapes(*(None if given is None else given.shape for given in (x, skip, argmax)))
        x = ops.cast(x, self.compute_dtype)
        if self.needs_skip:
            skip = ops.cast(skip, self.compute_dtype)
        if self.needs_argmax:
            check_positions(argmax)
            argmax = ops.cast(argmax, "int32")
        if self.projection is not None:
            x = self.projection(x)
        y = self.activation(self.upsample(x, skip, argmax))
        if skip is None or (y.shape[1:3] == skip.shape[1:3] and None not in y.shape[1:3]):
            return y
        return y[:, : ops.shape(skip)[1], : ops.shape(skip)[2], :]

    def compute_output_spec(self, x, skip=None, argmax=None):
        if self.needs_argmax:
            check_positions(argmax)
        return super().compute_output_spec(x, skip, argmax)

    def compute_output_shape(self, x_shape, skip_shape=None, argmax_shape=None):
        self.check_shapes(x_shape, skip_shape, argmax_shape)
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
            data_format="channels_last",
            kernel_initializer=initializer,
            dtype=self.dtype_policy,
            name=name,
            **kwargs,
        )

    def seeded_initializer(self) -> keras.initializers.Initializer:
        """Initializer of the kernel, with a seed derived from the layer's if it has none of its own."""
        config = self.kernel_initializer.get_config()
        if self.seed is None or config.get("seed", 0) is not None:
            return self.kernel_initializer
        return type(self.kernel_initializer).from_config(config | {"seed": self.rule_seed(OWN_SEEDS)})

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


def check_map(name: str, shape) -> None:
    """Raise a ValueError that names a map whose shape is not ``(B, h, w, C)`` with pixels and channels."""
    if len(shape) != 4 or any(n == 0 for n in shape[1:] if isinstance(n, int)):
        raise ValueError(
            f"{name} must have the shape (batch, height, width, channels), each but the batch at least 1, received "
            f"{_text(shape)}"
        )


def check_enlarged(layer: Upsampler, x_shape) -> None:
    """Raise a ValueError if the padding of a layer leaves no pixel of a map of ``x_shape``."""
    if any(isinstance(n, int) and layer.enlarged(n) < 1 for n in x_shape[1:3]):
        size = tuple(layer.enlarged(n) if isinstance(n, int) else n for n in x_shape[1:3])
        raise ValueError(
            f"{layer.name}: padding {layer.padding} leaves no pixel of a map of shape {_text(x_shape)}: its height and "
            f"width would become {size}"
        )


def check_positions(argmax) -> None:
    """Raise a ValueError if an argmax does not hold integers."""
    dtype = keras.backend.standardize_dtype(argmax.dtype)
    if not keras.backend.is_int_dtype(dtype):
        raise ValueError(f"argmax must be int32, as MaxPoolWithArgmax returns it, received {dtype}")


def _differ(n, m) -> bool:
    """Whether two sizes differ, if both are known."""
    return isinstance(n, int) and isinstance(m, int) and n != m


def _text(shape) -> str:
    return str(tuple(shape))
