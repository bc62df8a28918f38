"""The configuration of a run: typed sections, read from YAML and checked without importing Keras.

A YAML file contains only what differs from the defaults, or from the file that it names as ``base:``. One
:class:`~unet.errors.InputError` reports every mistake with its file and line, the accepted values and closest match.

``python -m unet.config`` prints the JSON schema that editors use (``configs/schema.json``).
"""

from unet.config import shipped
from unet.config.explain import Places
from unet.config.json_schema import json_schema
from unet.config.load import DATA_PLACES, Draft, Setting, find_base, load, located, parse_override, read, with_data_at
from unet.config.schema import (
    AugmentationConfig,
    Config,
    DataConfig,
    DecoderConfig,
    FolderConfig,
    LossConfig,
    ModelConfig,
    Normalization,
    ShapesConfig,
    SplitFolders,
    TrainingConfig,
    UpsamplerConfig,
)

__all__ = [
    "DATA_PLACES",
    "AugmentationConfig",
    "Config",
    "DataConfig",
    "DecoderConfig",
    "Draft",
    "FolderConfig",
    "LossConfig",
    "ModelConfig",
    "Normalization",
    "Places",
    "Setting",
    "ShapesConfig",
    "SplitFolders",
    "TrainingConfig",
    "UpsamplerConfig",
    "find_base",
    "json_schema",
    "load",
    "located",
    "parse_override",
    "read",
    "shipped",
    "with_data_at",
]
