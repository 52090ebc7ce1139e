"""Compression, sizes, metadata and the life of gRPC connections, over the fast path and over grpcio's own server."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc
from fake_backend import write_model
from http2_peer import Event, Http2Peer
from relay import Relay, relay_to
from running_server import RunningServer, start_server
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

WAIT = 30.0
MIB = 1 << 20

Start = Callable[..., RunningServer]

OPTIONS = (
    "--grpc-infer-response-compression-level=high",
    "--grpc-keepalive-seconds=0.2",
    "--grpc-keepalive-permit-without-calls",
    "--grpc-min-ping-interval-seconds=0",
    "--max-message-bytes=1MiB",
)


@pytest.fixture(scope="module", params=["auto", "off"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, third_party: dict[str, str]
) -> Iterator[RunningServer]:
    root = tmp_path_factory.mktemp("connections")
    write_model(root / "models" / "m" / "1")
    path = f"--grpc-fast-path={request.param}"
    running = start_server(root / "models", root / "log", path, *OPTIONS, env=third_party)
    yield running
    running.kill()


def request_of(rows: int) -> Any:
    message = pb.ModelInferRequest(model_name="m")
    message.inputs.add(name="input", datatype="FP32", shape=[rows, 4])
    message.raw_input_contents.append(bytes(rows * 16))
    return message


def infer(address: str, message: Any, *options: tuple[str, int], **call: Any) -> Any:
    own = ("grpc.use_local_subchannel_pool", 1)  # a connection of its own
    with grpc.insecure_channel(address, options=[own, *options]) as channel:
        return service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(message, timeout=WAIT, **call)


def refused(*arguments: Any, **call: Any) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        infer(*arguments, **call)
    code: str = caught.value.code().name
    return code


@pytest.fixture
def relay(server: RunningServer) -> Iterator[Relay]:
    with relay_to(server.grpc) as relay:
        yield relay


def test_a_reply_is_compressed_for_a_client_that_takes_it(relay: Relay) -> None:
    reply = infer(relay.address, request_of(10_000))
    assert reply.raw_output_contents[0] == bytes(160_000)
    assert relay.bytes_back < 16_000


def test_a_reply_is_not_compressed_for_a_client_that_does_not_take_it(relay: Relay) -> None:
    identity_only = ("grpc.compression_enabled_algorithms_bitset", 1)
    reply = infer(relay.address, request_of(10_000), identity_only)
    assert reply.raw_output_contents[0] == bytes(160_000)
    assert relay.bytes_back > 160_000


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_tritons_client_may_compress(server: RunningServer, algorithm: str) -> None:
    values = np.arange(40_000, dtype=np.float32).reshape(-1, 4)
    given = tritonclient.grpc.InferInput("input", [10_000, 4], "FP32")
    given.set_data_from_numpy(values)
    with tritonclient.grpc.InferenceServerClient(server.grpc) as client:
        result = client.infer("m", [given], compression_algorithm=algorithm)
    assert np.array_equal(result.as_numpy("output"), values * 2)


@pytest.mark.parametrize(
    "compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip, grpc.Compression.Deflate]
)
def test_the_limit_of_a_message_holds_for_what_it_decompresses_to(
    server: RunningServer, compression: grpc.Compression
) -> None:
    message = request_of(65_000)
    message.id = "x" * (MIB - message.ByteSize() - 4)
    for size, code in ((MIB, "OK"), (MIB + 1, "RESOURCE_EXHAUSTED")):
        message.id += "x" * (size - message.ByteSize())
        assert message.ByteSize() == size
        if code == "OK":
            assert infer(server.grpc, message, compression=compression).id == message.id
        else:
            assert refused(server.grpc, message, compression=compression) == code


def test_a_reply_that_is_more_than_the_client_takes_costs_only_itself(server: RunningServer) -> None:
    smallest = ("grpc.max_receive_message_length", 1000)
    assert refused(server.grpc, request_of(1000), smallest) == "RESOURCE_EXHAUSTED"
    assert infer(server.grpc, request_of(10), smallest).outputs[0].shape == [10, 4]


def test_unknown_metadata_is_ignored(server: RunningServer) -> None:
    metadata = [("x-unknown", "1"), ("x-unknown", "2"), ("unknown-bin", bytes(range(256)))]
    assert infer(server.grpc, request_of(1), metadata=metadata).model_version == "1"


def test_too_much_metadata_is_refused(server: RunningServer) -> None:
    assert refused(server.grpc, request_of(1), metadata=[("x-unknown", "y" * 100_000)]) == "RESOURCE_EXHAUSTED"
    assert infer(server.grpc, request_of(1)).model_version == "1"


@pytest.mark.parametrize("path", ["auto", "off"])
def test_a_client_that_gives_no_sign_of_life_loses_its_connection(start: Start, tmp_path: Path, path: str) -> None:
    """A server of its own: in the one of the others, a client that the machine holds up would lose its connection."""
    write_model(tmp_path / "models" / "m" / "1")
    keepalive = ("--grpc-keepalive-seconds=0.2", "--grpc-keepalive-permit-without-calls")
    flags = (f"--grpc-fast-path={path}", "--grpc-keepalive-timeout-seconds=0.2", *keepalive)
    server = start(tmp_path / "models", *flags)
    with Http2Peer(server.grpc, answers=False) as peer:
        assert [event.kind for event in peer.events(WAIT)] == ["ping", "goaway", "end"]


def test_pings_at_any_rate_are_allowed(server: RunningServer) -> None:
    with Http2Peer(server.grpc) as peer:
        for _ in range(10):
            peer.ping()
            assert Event("pong") in peer.events(WAIT)


@pytest.mark.parametrize("path", ["auto", "off"])
def test_a_client_sees_nothing_of_it_when_its_connection_is_too_old(start: Start, tmp_path: Path, path: str) -> None:
    """Several calls are always under way, and none fails, unless this machine holds the client up just as its
    connection ends: then it may send a call without having read that."""
    write_model(tmp_path / "models" / "m" / "1")
    age = ("--grpc-max-connection-age-seconds=0.8", "--grpc-max-connection-age-grace-seconds=20")
    server = start(tmp_path / "models", f"--grpc-fast-path={path}", *age)
    message = request_of(1).SerializeToString()

    def sees_nothing() -> bool:
        until = time.monotonic() + WAIT
        with relay_to(server.grpc) as relay, grpc.insecure_channel(relay.address) as channel:
            method = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
            codes: set[str] = set()
            while relay.connections < 3:
                assert time.monotonic() < until
                codes |= {call.code().name for call in [method.future(message, timeout=WAIT) for _ in range(8)]}
        assert codes <= {"OK", "UNAVAILABLE"}
        return codes == {"OK"}

    assert any(sees_nothing() for _ in range(3))
