#!/usr/bin/env python
"""The same as ``unet export``."""

from unet.commands import main

if __name__ == "__main__":
    main("export")
