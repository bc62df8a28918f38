"""``python -m unet`` is the command ``unet``."""

from unet.commands import main

main()
