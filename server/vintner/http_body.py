"""Bodies of HTTP requests and replies: reading within a limit, and compression both ways.

The limit holds for what arrives and for what it decompresses to, so neither a long body nor a small bomb costs more
memory than it. Nor do many bombs cost more than one: what is large is decompressed and parsed in turns.
"""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import ClassVar, Final

from vintner.errors import InvalidArgument, QueueFull, RequestError, TooLarge
from vintner.http_transport import Environ
from vintner.json_text import DEFAULT_LIMITS, JsonLimits

CHUNK: Final = 1 << 16
LARGE: Final = 1 << 20
"""Bytes of a body from which on it needs its turn."""

WINDOW: Final = {"gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}
"""zlib's parameter for each content coding; `deflate` means the zlib format (RFC 9110, 8.4.1.2)."""

SMALLEST_COMPRESSED: Final = 256
"""Bytes below which compressing a reply costs more than it saves."""


LONGEST_PREFERENCE: Final = 256
"""Characters of `Accept-Encoding` that are read; what was made of them is kept."""

QUALITY: Final = re.compile(r"0(?:\.\d*)?|1(?:\.0*)?")
"""A q-value of `Accept-Encoding`; anything else counts as 0."""


class UnsupportedEncoding(RequestError):
    """The body is in a content coding other than gzip, deflate and identity."""

    status: ClassVar[int] = 415
    headers: ClassVar[Sequence[tuple[str, str]]] = (("Accept-Encoding", ", ".join(WINDOW)),)


class Bodies:
    """The bodies of one kind of requests: how large each may be, and how many are read at the same time."""

    def __init__(self, limit: int, most: int, json: JsonLimits = DEFAULT_LIMITS, turn: Lock | None = None) -> None:
        """`limit` in bytes; `json` is for whoever parses them; those that share a `turn` take it together."""
        self.limit = limit
        self.json = json
        self.turn = turn or Lock()
        self._most = most
        self._lock = Lock()
        self._number = 0

    def one(self) -> Place:
        """To be around the reading of one, and what makes values of it. Entering it raises QueueFull."""
        return Place(self)

    def enter(self) -> None:
        with self._lock:
            if self._number >= self._most:
                raise QueueFull(f"Exceeds maximum queue size: {self._number} requests are being received already")
            self._number += 1

    def leave(self) -> None:
        with self._lock:
            self._number -= 1


class Place:
    """A place among those that are read: bounds the threads that wait for what clients are slow to send, so that a
    health check finds one. Large bodies are decompressed and parsed one after the other: their values may take forty
    times their memory, and a thousandth of them is enough to send."""

    __slots__ = ("_bodies", "_has_turn")

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._has_turn = False

    def __enter__(self) -> Place:
        self._bodies.enter()
        return self

    def __exit__(self, *_: object) -> None:
        if self._has_turn:
            self._bodies.turn.release()
        self._bodies.leave()

    def read(self, environ: Environ, limit: int = 0) -> bytes:
        """A whole body, decompressed. Raises as `read_body`."""
        return read_body(environ, limit or self._bodies.limit, self.expect)

    def expect(self, size: int) -> None:
        """Waits for the turn if there are so many bytes to be parsed that they need one. It lasts as long as the
        place."""
        if size >= LARGE and not self._has_turn:
            self._has_turn = self._bodies.turn.acquire()


def read_body(environ: Environ, limit: int, expect: Callable[[int], object] = lambda size: None) -> bytes:
    """The decompressed body; `expect` is called before there are so many bytes of it.

    Raises TooLarge, UnsupportedEncoding, or InvalidArgument for a broken stream.
    """
    encoding = _encoding(environ)
    size = content_length(environ, limit)
    body = _read_chunked(environ, limit) if size is None else read_exactly(environ, size)
    if encoding:
        return _decompress(body, encoding, limit, expect)
    expect(len(body))
    return body


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


def _decompress(body: bytes, encoding: str, limit: int, expect: Callable[[int], object]) -> bytes:
    decompressor = zlib.decompressobj(WINDOW[encoding])
    try:
        plain = decompressor.decompress(body, min(LARGE, limit + 1))
        if len(plain) == LARGE and not decompressor.eof:
            expect(LARGE)
            plain += decompressor.decompress(decompressor.unconsumed_tail, limit + 1 - LARGE)
    except zlib.error as exc:
        raise InvalidArgument(f"the body is not valid {encoding} data: {exc}") from exc
    if len(plain) > limit:
        raise _too_large(limit)
    if not decompressor.eof:
        raise InvalidArgument(f"the body is not valid {encoding} data: it ends early")
    if decompressor.unused_data:
        raise InvalidArgument(f"the body is not valid {encoding} data: more follows its end")
    return plain


@dataclass(frozen=True, slots=True)
class ReplyCoding:
    """A content coding for replies, and the bytes of a body from which on it is used."""

    name: str
    least: int = SMALLEST_COMPRESSED


def accepted_coding(header: str | None) -> ReplyCoding | None:
    """What `Accept-Encoding` prefers (RFC 9110, 12.5.3), the first of several; None for a reply as it is.

    A client that refuses `identity` has small bodies compressed too.
    """
    return None if header is None else _preferred(header[:LONGEST_PREFERENCE])


@lru_cache(maxsize=256)
def _preferred(header: str) -> ReplyCoding | None:
    listed = _qualities(header)
    others = listed.get("*", 0.0)
    offered = {coding: quality for coding, quality in listed.items() if coding in WINDOW}
    offered |= {coding: others for coding in WINDOW if coding not in listed}
    best = max(offered, key=offered.__getitem__)
    identity = listed.get("identity")
    if not offered[best] or offered[best] < (identity or 0.0):
        return None
    refused = identity == 0 or (identity is None and listed.get("*") == 0)
    return ReplyCoding(best, 0 if refused else SMALLEST_COMPRESSED)


def _qualities(header: str) -> dict[str, float]:
    """Each coding that is listed, in order, with its q-value."""
    qualities: dict[str, float] = {}
    for item in header.lower().split(","):
        coding, _, parameter = item.partition(";")
        qualities.setdefault(coding.strip(), _quality(parameter.strip()))
    return qualities


def _quality(parameter: str) -> float:
    if not parameter.startswith("q="):
        return 1.0
    return float(parameter[2:]) if QUALITY.fullmatch(parameter, 2) else 0.0


def compress(body: bytes, encoding: str) -> bytes:
    return gzip.compress(body, 1) if encoding == "gzip" else zlib.compress(body, 1)
