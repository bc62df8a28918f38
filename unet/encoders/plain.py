"""The encoder of the U-Net (Ronneberger et al. 2015): stages of two convolutions, halved by max-pooling."""

from unet.encoders.base import Encoder, Level


class Plain(Encoder):
    """Stages of two 3×3 convolutions with the widths of the configuration; no pretrained weights."""

    def levels(self, pixels, depth, widths, stage, pool):
        x = self.normalized(pixels, stage)
        found = []
        for i in range(depth):
            x = stage(x, widths[i], f"encoder_{i + 1}")
            pooled, argmax = pool(x, f"encoder_{i + 1}_pool")
            found.append(Level(x, argmax))
            x = pooled
        return [*found, Level(stage(x, widths[depth], "bottleneck"))]
