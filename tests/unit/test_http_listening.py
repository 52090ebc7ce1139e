"""What the socket that REST listens on hands down to its connections."""

from __future__ import annotations

import socket

from vintner.http_transport import _listen


def test_pieces_of_a_stream_do_not_wait_for_each_other_on_the_wire() -> None:
    """Without it the second of two small writes waits for the receipt of the first: 40 ms to the first token."""
    with _listen("127.0.0.1", 0, "REST") as listener:
        listener.setblocking(True)
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
