"""What happens around the training steps, one subject per callback; ``train`` puts them in order."""

from unet.training.callbacks.callback_list import CallbackList
from unet.training.callbacks.checkpoint import Checkpoint
from unet.training.callbacks.divergence import DivergenceGuard
from unet.training.callbacks.early_stopping import EarlyStopping, patience_exhausted
from unet.training.callbacks.epoch_setup import EpochSetup, epoch_seeds
from unet.training.callbacks.history import History
from unet.training.callbacks.progress import Progress
from unet.training.callbacks.stop_request import StopRequest
from unet.training.callbacks.tensorboard import TensorBoard
from unet.training.callbacks.tracking import Tracking
from unet.training.callbacks.validation import Validation

__all__ = [
    "CallbackList",
    "Checkpoint",
    "DivergenceGuard",
    "EarlyStopping",
    "EpochSetup",
    "History",
    "Progress",
    "StopRequest",
    "TensorBoard",
    "Tracking",
    "Validation",
    "epoch_seeds",
    "patience_exhausted",
]
