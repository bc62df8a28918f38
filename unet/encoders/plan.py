"""Channels of every stage of a network, and which combinations can be built; importable without Keras."""

from dataclasses import dataclass

from unet.encoders import ENCODERS
from unet.errors import shortened
from unet.settings import Mistakes
from unet.upsamplers import UPSAMPLERS

PLAIN_DEPTH = 4
"""Number of times the plain encoder halves the resolution by default."""
MAX_CHANNELS = 2**14
"""Most channels of a stage."""


@dataclass(frozen=True)
class Plan:
    """Channels of the feature maps of a network."""

    encoder: tuple[int, ...]
    """At strides 1, 2, 4, …, the bottleneck last."""
    decoder: tuple[int, ...]
    """At strides 1, 2, 4, …; one fewer."""

    @property
    def depth(self) -> int:
        """Number of times the resolution is halved."""
        return len(self.decoder)

    @classmethod
    def of(
        cls,
        encoder: str,
        depth: int | None,
        width: int,
        widths: tuple[int, ...] | None,
        decoder_widths: tuple[int, ...] | None,
        upsampler: str,
    ) -> "Plan":
        """Work out the channels from the arguments of :func:`unet.model.build_unet`.

        Raises:
            Mistakes: No network can be built from them; the message names the argument.
        """
        entry = ENCODERS[encoder]
        depth = depth or default_depth(encoder)
        if entry.pretrained:
            if widths is not None:
                raise Mistakes.of("widths", f"{encoder} has its own; decoder.widths sets those of the decoder")
            if depth > entry.depth:
                raise Mistakes.of("depth", f"{encoder} halves the resolution {entry.depth} times, received {depth}")
        widths = doubled(width, depth) if widths is None else tuple(widths)
        if len(widths) != depth + 1:
            raise Mistakes.of(
                "widths",
                f"a network of depth {depth} has {depth + 1} stages, received {shortened(str(list(widths)))}",
            )
        rule = UPSAMPLERS[upsampler]
        if decoder_widths is not None:
            decoder = tuple(decoder_widths)
        else:
            decoder = entry.levels(depth, width)[:-1] if rule.keeps_channels and entry.pretrained else widths[:-1]
        if len(decoder) != depth:
            received = shortened(str(list(decoder)))
            raise Mistakes.of(
                "widths", f"the decoder of a network of depth {depth} has {depth} stages, received {received}"
            ).below("decoder")
        plan = cls(entry.levels(depth, decoder[0]) if entry.pretrained else widths, decoder)
        if max(*plan.encoder, *plan.decoder) > MAX_CHANNELS:
            raise Mistakes.of(
                "width",
                f"with {width} channels in the first of {depth + 1} stages, the last has {widths[-1]:,}; "
                f"at most {MAX_CHANNELS:,} are accepted",
            )
        if rule.unpools and not entry.pools:
            able = ", ".join(name for name, entry in ENCODERS.items() if entry.pools)
            raise Mistakes.of(
                "upsampler",
                f"{upsampler} needs an encoder that max-pools ({able}); {encoder} has strided convolutions instead",
            )
        if rule.keeps_channels and plan.decoder != plan.encoder[:-1]:
            raise Mistakes.of(
                "widths",
                f"{upsampler} combines encoder and decoder channel by channel, so the decoder must have the channels "
                f"of the encoder, {list(plan.encoder[:-1])}, received {list(plan.decoder)}",
            ).below("decoder")
        return plan


def default_depth(encoder: str) -> int:
    """Number of times an encoder halves the resolution, unless configured otherwise."""
    return ENCODERS[encoder].depth if encoder in ENCODERS and ENCODERS[encoder].pretrained else PLAIN_DEPTH


def doubled(width: int, depth: int) -> tuple[int, ...]:
    """Channels of every stage if each has twice as many as the one before, the bottleneck last."""
    return tuple(width * 2**i for i in range(depth + 1))
