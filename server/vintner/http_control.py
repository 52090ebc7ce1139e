"""Bodies of the model repository's REST routes, of Triton's model repository extension.

Knows neither the service nor the transport. Invariant: a `file:` parameter comes out as the bytes of the file.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any

import orjson

from vintner.control_parameters import FILE, Value
from vintner.errors import InvalidArgument
from vintner.json_text import parse_object
from vintner.managed_model import IndexEntry


def decode_index(body: bytes) -> bool:
    """Whether only what is ready is asked for. The body is empty, or an object that may say so."""
    ready = _object(body).get("ready", False)
    if not isinstance(ready, bool):
        raise InvalidArgument("Invalid value for 'ready': expected a boolean")
    return ready


def encode_index(entries: Sequence[IndexEntry]) -> bytes:
    """What is empty is left out, as Triton does: of a model that was never loaded there is but its name."""
    documents = [{"name": e.name, "version": e.version, "state": e.state, "reason": e.reason} for e in entries]
    return orjson.dumps([{key: value for key, value in each.items() if value} for each in documents])


def decode_parameters(body: bytes) -> dict[str, Value]:
    """The parameters of a load or an unload; the body may be empty. Raises InvalidArgument."""
    parameters = _object(body).get("parameters", {})
    if not isinstance(parameters, dict):
        raise InvalidArgument("'parameters' of the request must be an object")
    return {name: _value(name, value) for name, value in parameters.items()}


def _value(name: str, value: Any) -> Value:
    if name.startswith(FILE):
        return _decoded(name, value)
    if isinstance(value, (bool, int, str, dict)):
        return value
    raise InvalidArgument(f"parameter '{name}' must be a boolean, an integer, a string or an object")


def _decoded(name: str, text: Any) -> bytes:
    if not isinstance(text, str):
        raise InvalidArgument(f"parameter '{name}' must be the content of a file, a string in base64")
    if "\n" in text:  # what `base64` prints has a line break after every 76 characters
        text = "".join(text.split())
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise InvalidArgument(f"parameter '{name}' is not valid base64: {exc}") from exc


def _object(body: bytes) -> dict[str, Any]:
    return parse_object(body) if body.strip() else {}


def largest_body(max_upload_bytes: int, max_request_bytes: int) -> int:
    """Bytes that the body of a load may have: as any request beside the files, which base64 makes longer by a third."""
    return max_request_bytes + max_upload_bytes // 3 * 4 + 4
