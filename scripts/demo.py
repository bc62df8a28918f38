#!/usr/bin/env python
"""The same as ``unet demo``."""

from unet.commands import main

if __name__ == "__main__":
    main("demo")
