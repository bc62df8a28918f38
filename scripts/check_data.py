#!/usr/bin/env python
"""The same as ``unet check-data``."""

from unet.commands import main

if __name__ == "__main__":
    main("check-data")
