"""The JSON schema that editors complete and check YAML files with."""

from typing import Any

from unet.config.schema import Config, SharedOptions, UpsamplerConfig
from unet.upsamplers import UPSAMPLERS


def json_schema() -> dict[str, Any]:
    """JSON schema of a YAML file: what :class:`Config` accepts, with ``base`` and the short forms."""
    schema = Config.model_json_schema()
    base = {"type": "string", "description": "Another YAML file, relative to this one, whose values are the defaults."}
    schema["properties"] = {"base": base} | schema["properties"]
    definitions = schema["$defs"]
    del definitions["UpsamplerConfig"]
    definitions |= {f"upsampler_{name}": _upsampler(name) for name in UPSAMPLERS}
    upsampler = definitions["ModelConfig"]["properties"]["upsampler"]
    upsampler.pop("$ref")
    upsampler["anyOf"] = [
        {"enum": list(UPSAMPLERS)},
        *({"$ref": f"#/$defs/upsampler_{name}"} for name in UPSAMPLERS),
    ]
    upsampler["default"] = UpsamplerConfig().name
    size = definitions["DataConfig"]["properties"]["size"]
    pair = {key: size.pop(key) for key in ("type", "minItems", "maxItems", "prefixItems")}
    size["anyOf"] = [{"type": "integer", "minimum": 1}, pair]
    classes = definitions["FolderConfig"]["properties"]["classes"]
    classes["anyOf"].insert(0, {"type": "array", "items": {"type": "string"}, "minItems": 2})
    return schema


def _upsampler(name: str) -> dict[str, Any]:
    """Schema of the mapping ``{name: ..., option: ...}`` of one upsampler."""
    entry = UPSAMPLERS[name]
    schema = entry.options.model_json_schema()
    options = schema.get("properties", {}) | SharedOptions.model_json_schema()["properties"]
    return {
        "type": "object",
        "description": entry.rule,
        "properties": {"name": {"const": name, "description": entry.rule}} | options,
        "required": ["name"] if name != UpsamplerConfig().name else [],
        "additionalProperties": False,
    }
