"""Bodies of HTTP requests and replies: reading within a limit, and compression both ways.

The limit holds for what arrives and for what it decompresses to, so neither a long body nor a small bomb costs more
memory than it.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import ClassVar, Final

from vintner.errors import InvalidArgument, QueueFull, RequestError, TooLarge
from vintner.http_transport import Environ

CHUNK: Final = 1 << 20
WINDOW: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""zlib's parameter for each content coding; `deflate` means the zlib format (RFC 9110, 8.4.1.2)."""

SMALLEST_COMPRESSED: Final = 256
"""Bytes below which compressing a reply costs more than it saves."""


class UnsupportedEncoding(RequestError):
    """The body is in a content coding other than gzip, deflate and identity."""

    status: ClassVar[int] = 415


class Bodies:
    """The bodies of requests that run models: how large each may be, and how many are read at the same time."""

    def __init__(self, limit: int, most: int) -> None:
        """`limit` in bytes."""
        self.limit = limit
        self._most = most
        self._lock = Lock()
        self._number = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """Around the reading of one: bounds the threads that wait for what clients are slow to send, so that a health
        check finds one. Raises QueueFull."""
        with self._lock:
            if self._number >= self._most:
                raise QueueFull(f"Exceeds maximum queue size: {self._number} requests are being received already")
            self._number += 1
        try:
            yield
        finally:
            with self._lock:
                self._number -= 1

    def read(self, environ: Environ) -> bytes:
        """A whole body. Raises QueueFull, and as `read_body`."""
        with self.one():
            return read_body(environ, self.limit)


def read_body(environ: Environ, limit: int) -> bytes:
    """The decompressed body. Raises TooLarge, UnsupportedEncoding, or InvalidArgument for a broken stream."""
    encoding = _encoding(environ)
    size = content_length(environ, limit)
    body = _read_chunked(environ, limit) if size is None else read_exactly(environ, size)
    return _decompress(body, encoding, limit) if encoding else body


def plain_size(environ: Environ, limit: int) -> int | None:
    """Bytes of a body that is neither chunked nor compressed, and so can be read in parts; else None."""
    return None if _encoding(environ) else content_length(environ, limit)


def read_exactly(environ: Environ, size: int) -> bytes:
    """The next `size` bytes of the body. Raises InvalidArgument if it ends before."""
    part: bytes = environ["wsgi.input"].read(size) if size else b""
    if len(part) != size:
        raise InvalidArgument(f"the body ends {size - len(part)} bytes early")
    return part


def content_length(environ: Environ, limit: int) -> int | None:
    """What the header says; None for a chunked body. Raises TooLarge before anything was read."""
    header = environ.get("CONTENT_LENGTH")
    if header is None:
        return None
    size = int(header)  # the HTTP server has refused what is no number
    if size > limit:
        raise _too_large(limit)
    return size


def _encoding(environ: Environ) -> str:
    """The content coding, "" for none."""
    encoding: str = environ.get("HTTP_CONTENT_ENCODING", "").strip().lower()
    if encoding in ("", "identity"):
        return ""
    if encoding not in WINDOW:
        raise UnsupportedEncoding(f"Unsupported compression type '{encoding}'; expected gzip, deflate or identity")
    return encoding


def _too_large(limit: int) -> TooLarge:
    return TooLarge(f"request body is larger than the limit of {limit} bytes (--max-request-bytes)")


def _read_chunked(environ: Environ, limit: int) -> bytes:
    stream = environ["wsgi.input"]
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
    if decompressor.unused_data:
        raise InvalidArgument(f"the body is not valid {encoding} data: more follows its end")
    return plain


def accepted_encoding(header: str | None) -> str | None:
    """The coding to reply in, of those that `Accept-Encoding` allows, or None for none."""
    if header is None:
        return None
    best, best_quality = None, 0.0
    for item in header.lower().split(","):
        coding, _, parameter = item.strip().partition(";")
        quality = _quality(parameter.strip())
        if coding.strip() in WINDOW and quality > best_quality:
            best, best_quality = coding.strip(), quality
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
