"""Bodies within a limit, and compression both ways."""

from __future__ import annotations

import gzip
import io
import zlib
from threading import Event, Lock, Thread
from typing import Any

import pytest
from vintner.errors import InvalidArgument, QueueFull, TooLarge
from vintner.http_body import (
    LARGE,
    SMALLEST_COMPRESSED,
    Bodies,
    ReplyCoding,
    UnsupportedEncoding,
    accepted_coding,
    compress,
    read_body,
)
from vintner.http_server import JSON, error_answer

LIMIT = 1000


def environ(body: bytes, encoding: str | None = None, chunked: bool = False) -> dict[str, Any]:
    made: dict[str, Any] = {"wsgi.input": io.BytesIO(body)}
    if not chunked:
        made["CONTENT_LENGTH"] = str(len(body))
    if encoding is not None:
        made["HTTP_CONTENT_ENCODING"] = encoding
    return made


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 1, LIMIT - 1, LIMIT])
def test_a_body_up_to_the_limit_is_read(size: int, chunked: bool) -> None:
    body = bytes(size)
    assert read_body(environ(body, chunked=chunked), LIMIT) == body


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(chunked: bool) -> None:
    with pytest.raises(TooLarge, match="1000 bytes"):
        read_body(environ(bytes(LIMIT + 1), chunked=chunked), LIMIT)


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
@pytest.mark.parametrize("chunked", [False, True])
def test_compressed_bodies_count_decompressed(encoding: str, pack: Any, chunked: bool) -> None:
    assert read_body(environ(pack(bytes(LIMIT)), encoding, chunked), LIMIT) == bytes(LIMIT)
    with pytest.raises(TooLarge):
        read_body(environ(pack(bytes(LIMIT + 1)), encoding, chunked), LIMIT)


@pytest.mark.parametrize("size", [LARGE - 1, LARGE, LARGE + 1, 3 * LARGE])
@pytest.mark.parametrize("encoding", [None, "gzip"])
def test_a_large_body_has_its_turn_until_its_place_is_left(encoding: str | None, size: int) -> None:
    """Also in bodies of another kind: what is bounded is the memory of the process."""
    bodies = Bodies(3 * LARGE, 1)
    others = Bodies(3 * LARGE, 1, turn=bodies.turn)
    with bodies.one() as place:
        body = gzip.compress(bytes(size)) if encoding else bytes(size)
        assert len(place.read(environ(body, encoding))) == size
        large = size > LARGE or (size == LARGE and not encoding)
        assert others.turn.locked() == large
        place.expect(LARGE)  # twice is once
        assert others.turn.locked()
    assert not others.turn.locked()


def test_a_bomb_waits_for_its_turn_before_it_goes_off() -> None:
    turn = Lock()
    bodies, sizes = Bodies(100 * LARGE, 2, turn=turn), []
    started, over = Event(), Event()

    def read() -> None:
        with bodies.one() as place:
            started.set()
            sizes.append(len(place.read(environ(gzip.compress(bytes(50 * LARGE)), "gzip"))))
        over.set()

    with turn:
        Thread(target=read, daemon=True).start()
        assert started.wait(10)
        with bodies.one() as place:
            assert place.read(environ(b"small")) == b"small"
        assert not sizes
    assert over.wait(10)
    assert sizes == [50 * LARGE]


def test_so_many_bodies_are_read_at_the_same_time() -> None:
    bodies = Bodies(LIMIT, 2)
    with bodies.one():
        with bodies.one(), pytest.raises(QueueFull), bodies.one():
            pass
        with bodies.one():
            pass


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("body", [b"", b"not compressed", gzip.compress(b"cut")[:-4], zlib.compress(b"cut")[:-2]])
def test_broken_compression_is_the_clients_mistake(encoding: str, body: bytes) -> None:
    with pytest.raises(InvalidArgument, match=encoding):
        read_body(environ(body, encoding), LIMIT)


def test_an_unknown_encoding_says_what_is_known() -> None:
    with pytest.raises(UnsupportedEncoding, match="gzip, deflate or identity"):
        read_body(environ(b"x", "br"), LIMIT)
    assert read_body(environ(b"x", "identity"), LIMIT) == b"x"


def test_a_body_that_ends_early_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="5 bytes early"):
        read_body({**environ(b"12345"), "CONTENT_LENGTH": "10"}, LIMIT)


@pytest.mark.parametrize(
    ("header", "chosen"),
    [
        (None, None), ("", None), ("gzip", "gzip"), ("deflate", "deflate"), ("br", None), ("identity", None),
        ("gzip;q=0.5, deflate;q=0.8", "deflate"), ("gzip;q=0", None), ("br, GZIP ; q=0.3", "gzip"), ("gzip;q=x", None),
        ("deflate, gzip", "deflate"), ("gzip;q=nan", None), ("gzip;q=1e9, deflate", "deflate"), ("gzip;q=-1", None),
        ("*", "gzip"), ("*;q=0.1", "gzip"), ("gzip;q=0, *", "deflate"), ("gzip;q=0.1, *;q=0.2", "deflate"),
        ("*;q=0", None), ("identity;q=0.5, gzip;q=0.4", None), ("identity;q=0.5, gzip;q=0.6", "gzip"),
        ("identity, gzip", "gzip"), ("identity, *;q=0.5", None), ("," * 10_000, None), ("gzip;q=0.5;q=1", None),
    ],
)  # fmt: skip
def test_the_reply_is_compressed_as_the_client_prefers(header: str | None, chosen: str | None) -> None:
    accepted = accepted_coding(header)
    assert (accepted and accepted.name) == chosen
    assert accepted is None or accepted.least == SMALLEST_COMPRESSED


@pytest.mark.parametrize("header", ["gzip, identity;q=0", "gzip, *;q=0", "identity;q=0.0, *"])
def test_a_client_that_refuses_what_is_not_compressed_gets_nothing_so(header: str) -> None:
    assert accepted_coding(header) == ReplyCoding("gzip", 0)


def test_the_error_for_an_unknown_encoding_has_the_header_that_lists_the_known() -> None:
    assert error_answer(UnsupportedEncoding("x"))[1] == [JSON, ("Accept-Encoding", "gzip, deflate")]


def test_what_is_compressed_can_be_read() -> None:
    assert gzip.decompress(compress(b"wine", "gzip")) == zlib.decompress(compress(b"wine", "deflate")) == b"wine"
