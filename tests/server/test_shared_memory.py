"""System shared memory over both protocols, by Triton's clients: registered, read, written, and never in harm's way."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.grpc.aio as triton_grpc_aio
import tritonclient.http as triton_http
import tritonclient.http.aio as triton_http_aio
import tritonclient.utils.shared_memory as shm
from fake_backend import fake_model, write_model
from held_backend import held
from infer_calls import (
    PROTOCOLS,
    Background,
    Given,
    Inference,
    grpc_stub,
    refusal_of,
    refuse,
    rest_refusal,
    wait_for_queued,
)
from running_server import RunningServer, start_server
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException, serialize_byte_tensor

MODULES = {"grpc": triton_grpc, "rest": triton_http}
AIO = {"grpc": triton_grpc_aio, "rest": triton_http_aio}
VALUES = np.array([[1, 2], [3, 4]], np.float32)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("shared")
    write_model(root / "double" / "1", fake_model(shape=(-1, 2)))
    write_model(root / "slow" / "1", fake_model(shape=(-1, 2)))
    write_model(root / "text" / "1", fake_model("BYTES", (-1,)))
    write_model(root / "rows" / "1", fake_model(shape=(-1, 2)) | {"decoupled": True})
    pair = [{"name": f"{{}}{number}", "datatype": "FP32", "shape": [-1, 2]} for number in range(2)]
    named = {kind: [entry | {"name": entry["name"].format(prefix)} for entry in pair] for kind, prefix in
             (("inputs", "in"), ("outputs", "out"))}  # fmt: skip
    write_model(root / "pair" / "1", named)
    return root


@pytest.fixture(scope="module")
def server(repository: Path, third_party: dict[str, str]) -> Iterator[RunningServer]:
    running = start_server(repository, repository.parent / "shared.log", "--allow-client-shm", env=third_party)
    yield running
    running.kill()


@pytest.fixture
def create() -> Iterator[Callable[..., Any]]:
    """Makes objects by Triton's client, and removes them."""
    made: list[Any] = []

    def create_object(size: int = 64, content: np.ndarray | None = None) -> Any:
        name = f"vintner-test-{id(made)}-{len(made)}"
        made.append(shm.create_shared_memory_region(name, f"/{name}", size))
        if content is not None:
            shm.set_shared_memory_region(made[-1], [content])
        return made[-1]

    yield create_object
    for handle in made:
        shm.destroy_shared_memory_region(handle)


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def client(server: RunningServer, protocol: str) -> Iterator[Any]:
    """Triton's, of either protocol. What it registered is unregistered in the end."""
    with MODULES[protocol].InferenceServerClient(server.grpc if protocol == "grpc" else server.http) as own:
        yield own
        own.unregister_system_shared_memory()


def key_of(handle: Any) -> str:
    return f"/{Path(shared_path(handle)).name}"


def shared_path(handle: Any) -> str:
    return f"/dev/shm/{handle._shm_key.lstrip('/')}"


def register(client: Any, name: str, handle: Any, size: int = 64, offset: int = 0) -> None:
    client.register_system_shared_memory(name, key_of(handle), size, offset)


def shared_input(module: Any, region: str, size: int = 16, name: str = "input", offset: int = 0) -> Any:
    given = module.InferInput(name, [2, 2], "FP32")
    given.set_shared_memory(region, size, offset)
    return given


def plain_input(module: Any, name: str = "input", values: np.ndarray = VALUES) -> Any:
    given = module.InferInput(name, list(values.shape), "FP32")
    given.set_data_from_numpy(values)
    return given


def shared_output(module: Any, region: str, size: int = 16, name: str = "output", offset: int = 0) -> Any:
    wanted = module.InferRequestedOutput(name)
    wanted.set_shared_memory(region, size, offset)
    return wanted


def code(error: InferenceServerException) -> str:
    """Of either protocol, as gRPC has it."""
    rest = {"400": "INVALID_ARGUMENT", "404": "NOT_FOUND", "501": "UNIMPLEMENTED"}
    status = str(error.status())
    return rest.get(status, status.removeprefix("StatusCode."))


# -- registering -------------------------------------------------------------------------------------------------------


def test_what_is_registered_is_shown_until_it_is_unregistered(client: Any, protocol: str, create: Any) -> None:
    one, other = create(), create()
    register(client, "one", one, 32, 8)
    register(client, "other", other)
    expected = [("one", key_of(one), 8, 32), ("other", key_of(other), 0, 64)]
    assert regions(client, protocol) == expected
    assert regions(client, protocol, "one") == expected[:1]
    client.unregister_system_shared_memory("one")
    client.unregister_system_shared_memory("one")
    assert regions(client, protocol) == expected[1:]
    client.unregister_system_shared_memory()
    assert regions(client, protocol) == []


def regions(client: Any, protocol: str, name: str = "") -> list[tuple[str, str, int, int]]:
    status = client.get_system_shared_memory_status(name)
    if protocol == "rest":
        return [(one["name"], one["key"], one["offset"], one["byte_size"]) for one in status]
    assert all(key == one.name for key, one in status.regions.items())
    return sorted((one.name, one.key, one.offset, one.byte_size) for one in status.regions.values())


def test_a_name_that_is_taken_is_refused(server: RunningServer, client: Any, create: Any) -> None:
    handle = create()
    register(client, "taken", handle)
    message = "shared memory region 'taken' already in manager"
    with grpc_stub(server) as stub:
        request = service_pb2.SystemSharedMemoryRegisterRequest(name="taken", key=key_of(handle), byte_size=1)
        refusal = refusal_of(lambda: stub.SystemSharedMemoryRegister(request))
    assert (refusal.code, refusal.message) == ("ALREADY_EXISTS", message)
    body = {"key": key_of(handle), "offset": 0, "byte_size": 1}
    refusal = rest_refusal(server, "POST", "/v2/systemsharedmemory/region/taken/register", body)
    assert (refusal.code, refusal.message) == ("400", message)


@pytest.mark.parametrize(
    ("key", "size", "offset", "text"),
    [
        ("/not-there", 1, 0, "Unable to open shared memory object '/not-there': No such file"),
        ("/../../etc/passwd", 1, 0, "invalid key"),
        ("/", 1, 0, "invalid key"),
        ("triton_python_backend_shm_region_0", 1, 0, "reserved"),
        ("", 65, 0, "offset + byte_size is 65"),
        ("", 2**63 - 1, 1, "Integer overflow detected"),
    ],
)
def test_what_cannot_be_registered_is_refused(
    client: Any, create: Any, key: str, size: int, offset: int, text: str
) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.register_system_shared_memory("r", key or key_of(create()), size, offset)
    assert code(caught.value) == "INVALID_ARGUMENT"
    assert text in caught.value.message()
    with pytest.raises(InferenceServerException, match="Unable to find system shared memory region: 'r'") as caught:
        client.get_system_shared_memory_status("r")
    assert code(caught.value) == "NOT_FOUND"


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b"", "malformed JSON"),
        ([], "must be a JSON object"),
        ({"byte_size": 1}, "'key' must be a string"),
        ({"key": 1, "byte_size": 1}, "'key' must be a string"),
        ({"key": "/k"}, "'byte_size' must be an integer"),
        ({"key": "/k", "byte_size": 1.5}, "'byte_size' must be an integer"),
        ({"key": "/k", "byte_size": 1, "offset": "0"}, "'offset' must be an integer"),
        ({"key": "/k", "byte_size": 1, "offset": -1}, "offset of at least 0"),
        ({"key": "/k", "byte_size": 0}, "byte_size of at least 1"),
        ({"key": "/\0", "byte_size": 1}, "invalid key"),
    ],
)
def test_a_body_that_registers_nothing_is_refused(server: RunningServer, body: Any, text: str) -> None:
    refusal = rest_refusal(server, "POST", "/v2/systemsharedmemory/region/r/register", body)
    assert refusal.code == "400"
    assert text in refusal.message


def test_cuda_memory_is_unimplemented(server: RunningServer, client: Any) -> None:
    for call in (
        client.get_cuda_shared_memory_status,
        client.unregister_cuda_shared_memory,
        lambda: client.register_cuda_shared_memory("r", b"\0", 0, 1),
    ):
        with pytest.raises(InferenceServerException, match="CUDA shared memory is not supported") as caught:
            call()
        assert code(caught.value) == "UNIMPLEMENTED"


def test_the_extension_is_listed_only_where_it_is_allowed(server: RunningServer, doubling: RunningServer) -> None:
    with (
        triton_http.InferenceServerClient(server.http) as allowed,
        triton_http.InferenceServerClient(doubling.http) as other,
    ):
        assert "system_shared_memory" in allowed.get_server_metadata()["extensions"]
        assert "system_shared_memory" not in other.get_server_metadata()["extensions"]
        assert other.get_system_shared_memory_status() == []


# -- inputs and outputs ------------------------------------------------------------------------------------------------


def test_inputs_and_outputs_are_in_regions(client: Any, protocol: str, create: Any) -> None:
    module = MODULES[protocol]
    given, answered = create(content=VALUES), create()
    register(client, "given", given)
    register(client, "answered", answered, 48, 16)
    result = client.infer(
        "double", [shared_input(module, "given")], outputs=[shared_output(module, "answered", 32, offset=8)]
    )
    assert shm.get_contents_as_numpy(answered, np.float32, [2, 2], 24).tolist() == (VALUES * 2).tolist()
    described = result.get_output("output")
    told = {"shared_memory_region": "answered", "shared_memory_offset": 8, "shared_memory_byte_size": 16}
    if protocol == "rest":
        assert described == {"name": "output", "datatype": "FP32", "shape": [2, 2], "parameters": told}
    else:
        assert (described.datatype, list(described.shape)) == ("FP32", [2, 2])
        values = {key: getattr(one, one.WhichOneof("parameter_choice")) for key, one in described.parameters.items()}
        assert values == told
        assert list(result.get_response().raw_output_contents) == [b""]


def test_strings_travel_through_regions(client: Any, protocol: str, create: Any) -> None:
    module = MODULES[protocol]
    texts = np.array([b"a glass", b"", "rot \U0001f377".encode()], np.object_)
    serialised = serialize_byte_tensor(texts).item()
    given, answered = create(128, content=serialize_byte_tensor(texts)), create(128)
    register(client, "given", given, 128)
    register(client, "answered", answered, 128)
    tensor = module.InferInput("input", [3], "BYTES")
    tensor.set_shared_memory("given", len(serialised))
    client.infer("text", [tensor], outputs=[shared_output(module, "answered", 128)])
    assert shm.get_contents_as_numpy(answered, np.object_, [3]).tolist() == texts.tolist()


@pytest.mark.parametrize("shared", ["in0", "in1", "both"])
def test_some_tensors_are_in_regions_and_others_in_the_message(
    client: Any, protocol: str, create: Any, shared: str
) -> None:
    module = MODULES[protocol]
    region = create(content=VALUES)
    register(client, "region", region)
    inputs = [
        shared_input(module, "region", name=name)
        if shared in (name, "both")
        else plain_input(module, name, VALUES + 10)
        for name in ("in0", "in1")
    ]
    outputs = [module.InferRequestedOutput("out1"), shared_output(module, "region", name="out0", offset=32)]
    result = client.infer("pair", inputs, outputs=outputs)
    expected = {name: (VALUES if shared in (name, "both") else VALUES + 10) * 2 for name in ("in0", "in1")}
    assert result.as_numpy("out1").tolist() == expected["in1"].tolist()
    assert shm.get_contents_as_numpy(region, np.float32, [2, 2], 32).tolist() == expected["in0"].tolist()


def test_requests_alike_but_for_their_regions_are_not_confused(client: Any, protocol: str, create: Any) -> None:
    """The same model and shapes again and again, in every combination: gRPC keeps headings that it has seen."""
    module = MODULES[protocol]
    region = create(content=VALUES)
    register(client, "region", region)
    plain, shared = [plain_input(module, values=VALUES + 1)], [shared_input(module, "region")]
    own, elsewhere = module.InferRequestedOutput("output"), shared_output(module, "region", offset=32)
    for _ in range(3):
        for inputs, expected in ((plain, (VALUES + 1) * 2), (shared, VALUES * 2)):
            assert client.infer("double", inputs, outputs=[own]).as_numpy("output").tolist() == expected.tolist()
            shm.set_shared_memory_region(region, [VALUES, VALUES * 0, VALUES * 0])
            client.infer("double", inputs, outputs=[elsewhere])
            assert shm.get_contents_as_numpy(region, np.float32, [2, 2], 32).tolist() == expected.tolist()


def test_the_asynchronous_clients_use_regions(server: RunningServer, protocol: str, create: Any) -> None:
    module, region = MODULES[protocol], create(content=VALUES)
    address = server.grpc if protocol == "grpc" else server.http

    async def use() -> Any:
        async with AIO[protocol].InferenceServerClient(address) as client:
            await client.register_system_shared_memory("aio", key_of(region), 64)
            inputs, outputs = [shared_input(module, "aio")], [shared_output(module, "aio", offset=16)]
            await client.infer("double", inputs, outputs=outputs)
            await client.unregister_system_shared_memory("aio")
            return await client.get_system_shared_memory_status()

    status = asyncio.run(use())
    assert not (status.regions if protocol == "grpc" else status)
    assert shm.get_contents_as_numpy(region, np.float32, [2, 2], 16).tolist() == (VALUES * 2).tolist()


def test_a_stream_uses_regions(server: RunningServer, create: Any) -> None:
    region = create(content=VALUES)
    events: SimpleQueue[tuple[Any, Any]] = SimpleQueue()
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        register(client, "streamed", region)
        client.start_stream(lambda result, error: events.put((result, error)))
        inputs, outputs = [shared_input(triton_grpc, "streamed")], [shared_output(triton_grpc, "streamed", offset=16)]
        client.async_stream_infer("double", inputs, outputs=outputs)
        result, error = events.get(timeout=20)
        assert error is None
        assert list(result.get_response().raw_output_contents) == [b""]
        assert shm.get_contents_as_numpy(region, np.float32, [2, 2], 16).tolist() == (VALUES * 2).tolist()
        client.async_stream_infer("rows", inputs)
        rows = [events.get(timeout=20)[0].as_numpy("output").tolist() for _ in range(2)]
        assert rows == (VALUES * 2).tolist()
        client.async_stream_infer("rows", inputs, outputs=outputs)
        result, error = events.get(timeout=20)
        assert "each response would overwrite the one before" in error.message()
        client.unregister_system_shared_memory("streamed")
        client.stop_stream()


SHARED = {"shared_memory_region": "region", "shared_memory_byte_size": 8}
REFUSED = {
    "unknown region of an input": (
        Given(data=None, parameters=SHARED | {"shared_memory_region": "other"}), (), "NOT_FOUND",
        "Unable to find shared memory region: 'other'",
    ),
    "unknown region of an output": (
        Given(), (("output", SHARED | {"shared_memory_region": "other"}),), "NOT_FOUND",
        "Unable to find shared memory region: 'other'",
    ),
    "offset beyond the region": (
        Given(data=None, parameters=SHARED | {"shared_memory_offset": 65}), (), "INVALID_ARGUMENT",
        "Invalid offset for shared memory region",
    ),
    "part beyond the region": (
        Given(data=None, parameters=SHARED | {"shared_memory_offset": 60}), (), "INVALID_ARGUMENT",
        "Invalid offset + byte size for shared memory region",
    ),
    "overflow": (
        Given(data=None, parameters=SHARED | {"shared_memory_offset": 2**63 - 1}), (), "INVALID_ARGUMENT",
        "Integer overflow detected",
    ),
    "negative offset": (
        Given(data=None, parameters=SHARED | {"shared_memory_offset": -1}), (), "INVALID_ARGUMENT",
        "'shared_memory_offset' of input 'input' must be an integer that is not negative",
    ),
    "size of another shape": (
        Given(data=None, shape=(2, 2), parameters=SHARED), (), "INVALID_ARGUMENT",
        "input byte size mismatch for input 'input'. Expected 16, got 8",
    ),
    "no size": (
        Given(data=None, parameters={"shared_memory_region": "region"}), (), "INVALID_ARGUMENT",
        "input 'input' is in shared memory region 'region', but has no 'shared_memory_byte_size'",
    ),
    "no region": (
        Given(), (("output", {"shared_memory_byte_size": 8}),), "INVALID_ARGUMENT",
        "'shared_memory_region' of output 'output' must be the name of a shared memory region",
    ),
    "classes in a region": (
        Given(), (("output", SHARED | {"classification": 1}),), "INVALID_ARGUMENT",
        "Output can't set both 'shared_memory_region' and 'classification'",
    ),
    "output that does not fit": (
        Given(), (("output", SHARED | {"shared_memory_byte_size": 7}),), "INVALID_ARGUMENT",
        "shared memory size specified with the request for output 'output' (7 bytes) should be at least 8 bytes",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", REFUSED)
def test_a_faulty_use_of_a_region_is_refused(
    server: RunningServer, client: Any, protocol: str, create: Any, fault: str
) -> None:
    register(client, "region", create())
    given, outputs, status, text = REFUSED[fault]
    assert text in refuse(server, protocol, Inference("double", inputs=[given], outputs=outputs), status).message


def test_data_beside_a_region_is_refused(server: RunningServer, client: Any, protocol: str, create: Any) -> None:
    register(client, "region", create())
    expected = {
        "grpc": "unexpected 'content' provided when using shared memory for input tensor 'input' for model 'double'",
        "rest": "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
        "'shared_memory_region' in 'parameters'. Input 'input' sets two.",
    }
    inference = Inference("double", inputs=[Given(parameters=SHARED)])
    assert refuse(server, protocol, inference, "INVALID_ARGUMENT").message == expected[protocol]


def test_binary_data_beside_a_region_is_refused(server: RunningServer) -> None:
    document = Inference("double", inputs=[Given(data=None, parameters=SHARED | {"binary_data_size": 8})]).document()
    refusal = rest_refusal(server, "POST", "/v2/models/double/infer", document)
    assert (refusal.code, "sets two" in refusal.message) == ("400", True)


@pytest.mark.parametrize("entries", [0, 2])
def test_raw_contents_are_counted_without_the_inputs_in_regions(
    server: RunningServer, create: Any, entries: int
) -> None:
    with grpc_stub(server) as stub:
        request = service_pb2.ModelInferRequest(model_name="pair", raw_input_contents=[bytes(8)] * entries)
        for name in ("in0", "in1"):
            request.inputs.add(name=name, datatype="FP32", shape=[1, 2])
        request.inputs[0].parameters["shared_memory_region"].string_param = "region"
        refusal = refusal_of(lambda: stub.ModelInfer(request))
    assert refusal.code == ("INVALID_ARGUMENT" if entries else "NOT_FOUND")


def test_what_a_client_truncates_after_it_was_registered_hurts_nobody(
    server: RunningServer, client: Any, protocol: str, create: Any
) -> None:
    module, region = MODULES[protocol], create(1 << 20)
    register(client, "region", region, 1 << 20)
    with Path(shared_path(region)).open("r+b") as file:
        file.truncate(8)
    for inputs, outputs in (
        ([shared_input(module, "region")], None),
        ([plain_input(module)], [shared_output(module, "region", offset=1 << 19)]),
    ):
        with pytest.raises(InferenceServerException, match="was truncated after it was registered") as caught:
            client.infer("double", inputs, outputs=outputs)
        assert code(caught.value) == "INVALID_ARGUMENT"
    assert client.is_server_live()


def test_a_client_that_truncates_all_the_time_gets_errors_and_the_server_stays(
    server: RunningServer, client: Any, protocol: str, create: Any
) -> None:
    """Whoever touched a mapping of the object would be killed by SIGBUS within a few of these."""
    module, size = MODULES[protocol], 1 << 20
    region = create(2 * size)
    register(client, "region", region, 2 * size)
    over = threading.Event()

    def truncate_again_and_again() -> None:
        with Path(shared_path(region)).open("r+b") as file:
            while not over.is_set():
                file.truncate(0)
                file.truncate(2 * size)

    given = module.InferInput("input", [size // 8, 2], "FP32")
    given.set_shared_memory("region", size)
    truncating = Background(truncate_again_and_again)
    statuses = set()
    for _ in range(60):
        try:
            client.infer("double", [given], outputs=[shared_output(module, "region", size, offset=size)])
        except InferenceServerException as error:
            statuses.add(code(error))
    over.set()
    assert truncating.outcome is None
    assert statuses <= {"INVALID_ARGUMENT"}
    assert client.is_server_live()


def test_a_region_in_use_is_written_after_it_was_unregistered(
    server: RunningServer, client: Any, protocol: str, create: Any, repository: Path
) -> None:
    module, region = MODULES[protocol], create(content=VALUES)
    register(client, "region", region)
    address = server.grpc if protocol == "grpc" else server.http
    with MODULES[protocol].InferenceServerClient(address) as own:
        with held(repository / "slow" / "1"):
            infer = Background(
                lambda: own.infer(
                    "slow", [shared_input(module, "region")], outputs=[shared_output(module, "region", offset=16)]
                )
            )
            wait_for_queued(server, "slow", running=1, waiting=0)
            client.unregister_system_shared_memory("region")
            assert regions(client, protocol) == []
            shm.set_shared_memory_region(region, [VALUES * 100])
        assert not isinstance(infer.outcome, Exception), infer.outcome
    assert shm.get_contents_as_numpy(region, np.float32, [2, 2], 16).tolist() == (VALUES * 2).tolist()


def test_eight_clients_while_the_region_comes_and_goes(server: RunningServer, create: Any) -> None:
    """Each answer is right, or a clean NOT_FOUND."""
    region = create(1024)
    outcomes: list[str] = []
    over = threading.Event()

    def infer_again_and_again(number: int) -> None:
        values = np.full((2, 2), number, np.float32)
        place = number * 64
        region_bytes = np.memmap(shared_path(region), np.uint8, "r+")
        region_bytes[place : place + 16] = values.view(np.uint8).ravel()
        inputs = [shared_input(triton_grpc, "region", offset=place)]
        outputs = [shared_output(triton_grpc, "region", offset=place + 16)]
        with triton_grpc.InferenceServerClient(server.grpc) as client:
            while not over.is_set():
                region_bytes[place + 16 : place + 32] = 0
                try:
                    client.infer("double", inputs, outputs=outputs)
                except InferenceServerException as error:
                    outcomes.append(code(error))
                    continue
                right = region_bytes[place + 16 : place + 32].view(np.float32).tolist() == [number * 2.0] * 4
                outcomes.append("right" if right else "wrong")

    threads = [Background(infer_again_and_again, number) for number in range(1, 9)]
    with triton_grpc.InferenceServerClient(server.grpc) as client:
        for _ in range(150):
            register(client, "region", region, 1024)
            client.unregister_system_shared_memory("region" if len(outcomes) % 2 else "")
    over.set()
    assert [thread.outcome for thread in threads] == [None] * 8
    assert set(outcomes) == {"right", "NOT_FOUND"}


def test_nothing_stays_open(server: RunningServer) -> None:
    """After all tests above: no region is left, so no object is."""
    with triton_http.InferenceServerClient(server.http) as client:
        client.unregister_system_shared_memory()
    descriptors = [path.readlink() for path in Path(f"/proc/{server.process.pid}/fd").iterdir() if path.is_symlink()]
    assert not [path for path in descriptors if "vintner-test" in str(path)]
