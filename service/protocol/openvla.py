"""OpenVLA's form of POST /act: JSON whose arrays are json-numpy's, both ways.

It is told apart by content. A body that holds such an array is answered with such arrays (`codec.spoken`), so that a
client that has patched its `json` module finds NumPy arrays in the reply. A body of {"encoded": "<JSON>"} holds such a
request as text, and its reply is text too: a JSON string of the encoded reply.
"""

from __future__ import annotations

import json
from typing import Any

from service.errors import InvalidRequest
from service.protocol import codec

ARRAYS = "__numpy__"
"""The marker of its arrays."""

_TEXT = "encoded"

TEXT_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "A request as text; its reply is a string of JSON too. For clients such as OpenVLA's.",
    "properties": {_TEXT: {"type": "string", "contentMediaType": codec.JSON}},
    "required": [_TEXT],
    "additionalProperties": False,
}


def is_text(fields: dict[str, Any]) -> bool:
    """Does a decoded body hold its request as text?"""
    return _TEXT in fields


def from_text(fields: dict[str, Any]) -> dict[str, Any]:
    """The request that a body holds as text.

    Raises:
        InvalidRequest: naming `encoded`: it is no string, not alone, or not the JSON of an object.
    """
    text = fields[_TEXT]
    if not isinstance(text, str):
        raise InvalidRequest(f"{_TEXT}: expected a request as a string of JSON, found {codec.brief(text)}", field=_TEXT)
    if others := fields.keys() - {_TEXT}:
        other = min(others)
        raise InvalidRequest(f"{codec.brief(other)}: expected it inside {_TEXT!r}, which stands alone", field=other)
    try:
        return codec.decode(text.encode("utf-8", "surrogatepass"), codec.JSON)
    except InvalidRequest as error:
        raise InvalidRequest(f"{_TEXT}: {error.detail}", field=error.field or _TEXT) from None


def as_text(encoded: bytes) -> bytes:
    """An encoded reply as a JSON string."""
    return json.dumps(encoded.decode()).encode()
