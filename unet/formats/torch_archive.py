"""Checks of a ``.pt2`` file before PyTorch opens it.

``torch.export.load`` is not meant for untrusted files: it unpickles objects, evaluates expressions and guards as
Python, and calls functions by name. A file is loaded only if it contains tensors and operations, and nothing else.
"""

import io
import json
import re
import zipfile
from pathlib import Path
from typing import Any

from unet import records
from unet.errors import InputError

_MEMBERS = re.compile(
    r"(archive_format|archive_version|version|byteorder|\.data/version|\.data/serialization_id|extra/[\w.]+"
    r"|models/model\.json|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt)"
)
"""Members of an archive that ``torch.export.save`` writes for tensors and operations."""
_OPERATION = re.compile(r"torch\.ops\.aten\.(?!.*__)(\w+)\.(\w+)")
_OPERATOR = re.compile(r"_operator\.(add|sub|mul|neg|floordiv|truediv|mod|eq|ne|lt|le|gt|ge|getitem)")
_WITH_TEXT = {"pad", "gelu", "div", "meshgrid", "_assert_scalar"}
"""Operations that may be given text. Others open the file that it names, print it, or compose names from it."""
_STRINGS = {"constant", "reflect", "replicate", "circular", "floor", "trunc", "none", "tanh", "ij", "xy"}
"""Values of string arguments; there are no names of files among them."""
_ASSERTION = r"Runtime assertion failed for expression [\w .,<>=*+()'-]*"
_EXPRESSION = re.compile(
    r"(?:Symbol|Integer|Add|Mul|Mod|FloorDiv|CeilDiv|Max|Min|Equality|Unequality|GreaterThan|LessThan|StrictGreaterThan"
    r"|StrictLessThan|positive|integer|nonnegative|True|False|evaluate|'[su]\d+'|-?\d++|[(),= ])*+"
)
_LONGEST_EXPRESSION = 200
"""Most characters of an expression; SymPy takes minutes for a nested one of some thousand."""
_NAME = re.compile(r"[\w./]*")
_TREE = re.compile(r'type|context|children_spec|null|builtins\.(tuple|list|dict)|pixels|[][{}:, \d"\\]')
_FREE = ("stack_trace", "nn_module_stack", "torch_fn", "source_fn_stack", "from_node", "custom")
"""Where an operation comes from; not needed to run it."""


def checked(path: Path) -> io.BytesIO:
    """Return the archive, checked and written anew, so that PyTorch reads what was checked.

    Raises:
        InputError: It is damaged, or contains more than tensors and operations.
    """
    copy = io.BytesIO()
    with records.open_archive(path) as archive, zipfile.ZipFile(copy, "w") as written:
        for member in archive.infolist():
            _, _, name = member.filename.partition("/")
            if not _MEMBERS.fullmatch(name):
                raise _refusal(path, f"the member {member.filename}")
            content = archive.read(member)
            if name.endswith(".json") and not name.startswith("extra/"):
                content = _checked_json(path, content)
            elif name.endswith(".pt"):
                _check_pickle(path, content)
            written.writestr(member.filename, content)
    copy.seek(0)
    return copy


def _refusal(path: Path, what: str) -> InputError:
    return InputError(f"{path}: contains {what[:200]}, which may be code, and is refused; code in a file is never run")


def _checked_json(path: Path, content: bytes) -> bytes:
    try:
        values = records.parse(content.decode(), dict[str, Any])
    except ValueError as error:
        raise InputError(f"{path}: is damaged: {error}") from None
    _check(path, "", values)
    return json.dumps(values).encode()


def _check(path: Path, key: str, value) -> None:
    """Check every text in the JSON by the key under which it is stored, and drop where operations come from."""
    if isinstance(value, dict):
        for name in _FREE:
            value.pop(name, None)
        for name, inner in value.items():
            if not _NAME.fullmatch(name):
                raise _refusal(path, f"the name {name!r}")
            _check(path, name, inner)
    elif isinstance(value, list):
        for inner in value:
            _check(path, key, inner)
    elif (isinstance(value, str) and not _accepts(key, value)) or (key == "use_pickle" and value is not False):
        raise _refusal(path, f"{key} {value!r}")


def _accepts(key: str, text: str) -> bool:
    if key == "target":
        return bool(_OPERATOR.fullmatch(text)) or _computes(text)
    if key == "as_string":
        return text in _STRINGS or bool(re.fullmatch(_ASSERTION, text))
    if key == "expr_str":
        return len(text) <= _LONGEST_EXPRESSION and bool(_EXPRESSION.fullmatch(text))
    if key in ("in_spec", "out_spec"):
        return not _TREE.sub("", text)
    if key == "torch_version":
        return bool(re.fullmatch(r"[\w.+]*", text))
    return key != "guards_code" and bool(_NAME.fullmatch(text))


def _computes(target: str) -> bool:
    """Whether an operation exists in ATen and is given no text, or text that is no name of a file."""
    import torch

    if not (match := _OPERATION.fullmatch(target)):
        return False
    overload = getattr(getattr(torch.ops.aten, match[1], None), match[2], None)
    if not isinstance(overload, torch._ops.OpOverload):
        return False
    return match[1] in _WITH_TEXT or not any("str" in str(argument.type) for argument in overload._schema.arguments)


def _check_pickle(path: Path, content: bytes) -> None:
    """Accept a pickle of tensors only, so that PyTorch does not fall back to one of any objects."""
    import torch

    try:
        torch.load(io.BytesIO(content), weights_only=True)
    except Exception as error:  # of pickle, zip or torch
        raise _refusal(path, f"a pickle of objects other than tensors ({records.cause(error)})") from None
