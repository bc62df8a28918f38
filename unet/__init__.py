"""A Keras 3 U-Net whose upsampler is one line of YAML."""
