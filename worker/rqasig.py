"""A signature names a set of models that are asked as one batch; this is how signature and name become the name of a model. Pure.

A model's name has 1 to 128 of A-Z a-z 0-9 . _ - (manifest.NAME); a signature and a name may be whatever stands in a path. So both are
written with `-` as the escape: `-3d` for the byte 3d, `-2d` for the minus itself, and between the two `--`, which no escape makes::

    e3_t1_r0.1, cnn          e3_t1_r0.1--cnn
    dim=3;norm=l2, resnet-18 dim-3d3-3bnorm-3dl2--resnet-2d18

One pair, one name: `parts_of(model_of(sig, name)) == (sig, name)`, and names that nobody would write like this are of no signature.
"""

from __future__ import annotations

import os
import re

from ..coordinator.errors import BadInput, InvalidName
from ..coordinator.manifest import check_name

#: Bytes that stand for themselves.
_PLAIN = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._")
_ESCAPE = re.compile(rb"-([0-9a-f]{2})")
_BETWEEN = "--"


def check_part(text: str, what: str) -> str:
    """`text`, if it can be the name of one folder or file; else BadInput. Signatures come with requests: none may lead elsewhere."""
    if not isinstance(text, str) or text in ("", ".", "..") or "/" in text or "\0" in text:
        raise BadInput(what, f"{text!r} cannot be the name of one folder or file")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise BadInput(what, f"{text!r} is no text that a file system knows") from None
    return text


def model_of(rqa_sig: str, name: str) -> str:
    """The model that stands for `name` of the signature. Raises BadInput for what no path can have, and for what is too long."""
    found = _written(check_part(rqa_sig, "rqa_sig")) + _BETWEEN + _written(check_part(name, "name"))
    try:
        return check_name(found)
    except InvalidName:
        raise BadInput(
            "rqa_sig", f"{rqa_sig!r} and {name!r} are {len(found)} characters as a model's name; 128 are possible"
        ) from None


def parts_of(model: str) -> tuple[str, str] | None:
    """(signature, name) of a model; None if it is of no signature."""
    first, between, second = model.partition(_BETWEEN)
    if not between:
        return None
    parts = _read(first), _read(second)
    try:
        return parts if model_of(*parts) == model else None
    except BadInput:
        return None


def _written(text: str) -> str:
    return "".join(chr(byte) if byte in _PLAIN else f"-{byte:02x}" for byte in os.fsencode(text))


def _read(text: str) -> str:
    return os.fsdecode(_ESCAPE.sub(lambda match: bytes([int(match[1], 16)]), os.fsencode(text)))
