"""Bodies of HTTP requests and replies: reading within a limit, and compression both ways.

The limit holds for what arrives and for what it decompresses to, so neither a long body nor a small bomb costs more
memory than it.
"""

from __future__ import annotations

import gzip
import zlib
from typing import ClassVar, Final

from vintner.errors import InvalidArgument, RequestError, TooLarge
from vintner.http_transport import Environ

CHUNK: Final = 1 << 20
WINDOW: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""zlib's parameter for each content coding; `deflate` means the zlib format (RFC 9110, 8.4.1.2)."""

SMALLEST_COMPRESSED: Final = 256
"""Bytes below which compressing a reply costs more than it saves."""


class UnsupportedEncoding(RequestError):
    """The body is in a content coding other than gzip, deflate and identity."""

    status: ClassVar[int] = 415


def read_body(environ: Environ, limit: int) -> bytes:
    """The decompressed body. Raises TooLarge, UnsupportedEncoding, or InvalidArgument for a broken stream."""
    encoding = environ.get("HTTP_CONTENT_ENCODING", "identity").strip().lower()
    if encoding not in (*WINDOW, "identity", ""):
        raise UnsupportedEncoding(f"Unsupported compression type '{encoding}'; expected gzip, deflate or identity")
    length = environ.get("CONTENT_LENGTH")
    if length is not None and int(length) > limit:
        raise _too_large(limit)
    body = _read(environ, limit)
    return _decompress(body, encoding, limit) if encoding in WINDOW else body


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"request body is larger than the limit of {limit} bytes (--max-request-bytes)")


def _read(environ: Environ, limit: int) -> bytes:
    stream = environ["wsgi.input"]
    if environ.get("CONTENT_LENGTH") is not None:
        body: bytes = stream.read()
        return body
    parts, size = [], 0
    while part := stream.read(CHUNK):
        size += len(part)
        if size > limit:
            raise _too_large(limit)
        parts.append(part)
    return b"".join(parts)


def _decompress(body: bytes, encoding: str, limit: int) -> bytes:
    decompressor = zlib.decompressobj(WINDOW[encoding])
    try:
        plain = decompressor.decompress(body, limit + 1)
    except zlib.error as exc:
        raise InvalidArgument(f"the body is not valid {encoding} data: {exc}") from exc
    if len(plain) > limit:
        raise _too_large(limit)
    if not decompressor.eof:
        raise InvalidArgument(f"the body is not valid {encoding} data: it ends early")
    return plain


def accepted_encoding(header: str | None) -> str | None:
    """The coding to reply in, of those that `Accept-Encoding` allows, or None for none."""
    if header is None:
        return None
    best, best_quality = None, 0.0
    for item in header.lower().split(","):
        coding, _, parameter = item.strip().partition(";")
        quality = _quality(parameter.strip())
        if coding in WINDOW and quality > best_quality:
            best, best_quality = coding, quality
    return best


def _quality(parameter: str) -> float:
    if not parameter.startswith("q="):
        return 1.0
    try:
        return float(parameter[2:])
    except ValueError:
        return 0.0


def compress(body: bytes, encoding: str) -> bytes:
    return gzip.compress(body, 1) if encoding == "gzip" else zlib.compress(body, 1)
