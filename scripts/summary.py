#!/usr/bin/env python
"""The same as ``unet summary``."""

from unet.commands import main

if __name__ == "__main__":
    main("summary")
