"""Masks for images of any size, from a run or an exported file."""

from unet.inference.predictor import MODES, Options, Prediction, Predictor, softmax
from unet.inference.tiling import Span, spans

__all__ = ["MODES", "Options", "Prediction", "Predictor", "Span", "softmax", "spans"]
