"""Measurements and comparisons that write docs/results: parity with references, every upsampler in every format."""
