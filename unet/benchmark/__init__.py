"""Time and memory: of the upsamplers alone (``layers``), and of whole training steps (``train``)."""
