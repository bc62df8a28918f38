"""Masks for images of any size, from a run or an exported file."""

from unet.inference.predictor import MODES, Options, Prediction, Predictor, check_options, softmax
from unet.inference.tiling import Span, spans

__all__ = ["MODES", "Options", "Prediction", "Predictor", "Span", "check_options", "softmax", "spans"]
