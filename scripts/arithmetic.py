#!/usr/bin/env python
"""The same as ``unet arithmetic``."""

from unet.commands import main

if __name__ == "__main__":
    main("arithmetic")
