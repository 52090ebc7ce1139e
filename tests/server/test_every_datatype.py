"""Every datatype there and back, through tritonclient over both protocols and every encoding they have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from running_server import RunningServer
from tritonclient.grpc import service_pb2

VALUES: dict[str, Any] = {
    "BOOL": np.array([[True, False], [False, True]]),
    "UINT8": np.array([[0, 1], [2, 127]], np.uint8),
    "UINT16": np.array([[0, 1], [2, 2**15 - 1]], np.uint16),
    "UINT32": np.array([[0, 1], [2, 2**31 - 1]], np.uint32),
    "UINT64": np.array([[0, 1], [2**53 + 1, 2**63 - 1]], np.uint64),
    "INT8": np.array([[0, -1], [63, -64]], np.int8),
    "INT16": np.array([[0, -1], [2**14 - 1, -(2**14)]], np.int16),
    "INT32": np.array([[0, -1], [2**30 - 1, -(2**30)]], np.int32),
    "INT64": np.array([[0, -1], [2**53 + 1, -(2**62)]], np.int64),
    "FP16": np.array([[0.5, -1.5], [1e-7, 30000]], np.float16),
    "FP32": np.array([[0.1, -1.5], [1e-30, 1e38]], np.float32),
    "FP64": np.array([[0.1, -1.5], [1e-300, 1 / 3]], np.float64),
    "BF16": np.array([[0.5, -1.5], [2.0**100, 3.0]], ml_dtypes.bfloat16),
    "BYTES": np.array([[b"", "Ωmega 🍷".encode()], [b"a\0b", b"line\n"]], np.object_),
}


def expected(datatype: str) -> Any:
    value = VALUES[datatype]
    return value if datatype in ("BOOL", "BYTES") else value + value


@pytest.fixture(scope="module")
def http(doubling: RunningServer) -> Iterator[Any]:
    with triton_http.InferenceServerClient(doubling.http) as client:
        yield client


@pytest.fixture(scope="module")
def grpc(doubling: RunningServer) -> Iterator[Any]:
    with triton_grpc.InferenceServerClient(doubling.grpc) as client:
        yield client


@pytest.mark.parametrize("datatype", VALUES)
def test_grpc_raw(grpc: Any, datatype: str) -> None:
    given = triton_grpc.InferInput("input", [2, 2], datatype)
    given.set_data_from_numpy(VALUES[datatype])
    result = grpc.infer(f"double_{datatype.lower()}", [given])
    output = result.get_output("output")
    assert (output.datatype, list(output.shape)) == (datatype, [2, 2])
    np.testing.assert_array_equal(result.as_numpy("output"), expected(datatype))


@pytest.mark.parametrize("binary_out", [True, False], ids=["binary out", "JSON out"])
@pytest.mark.parametrize("binary_in", [True, False], ids=["binary in", "JSON in"])
@pytest.mark.parametrize("datatype", VALUES)
def test_rest(http: Any, datatype: str, binary_in: bool, binary_out: bool) -> None:
    given = triton_http.InferInput("input", [2, 2], datatype)
    if datatype in ("FP16", "BF16") and not binary_in:
        given._data = VALUES[datatype].astype(float).ravel().tolist()  # the client itself refuses them as JSON
    else:
        given.set_data_from_numpy(VALUES[datatype], binary_data=binary_in)
    wanted = triton_http.InferRequestedOutput("output", binary_data=binary_out)
    result = http.infer(f"double_{datatype.lower()}", [given], outputs=[wanted])
    output = result.get_output("output")
    assert (output["datatype"], output["shape"]) == (datatype, [2, 2])
    assert ("data" in output) != binary_out
    if datatype == "BYTES" and not binary_out:
        assert output["data"] == [text.decode() for text in VALUES["BYTES"].ravel()]
    elif datatype in ("FP16", "BF16") and not binary_out:
        values = np.array(output["data"]).astype(VALUES[datatype].dtype)  # printed as short as tells them apart
        np.testing.assert_array_equal(values, expected(datatype).ravel())
    else:
        np.testing.assert_array_equal(result.as_numpy("output"), expected(datatype))


CONTENTS = {
    "BOOL": "bool", "UINT8": "uint", "UINT16": "uint", "UINT32": "uint", "UINT64": "uint64", "INT8": "int",
    "INT16": "int", "INT32": "int", "INT64": "int64", "FP32": "fp32", "FP64": "fp64", "BYTES": "bytes",
}  # fmt: skip


@pytest.mark.parametrize("datatype", CONTENTS)
def test_grpc_typed_contents(grpc: Any, datatype: str) -> None:
    request = service_pb2.ModelInferRequest(model_name=f"double_{datatype.lower()}")
    tensor = request.inputs.add(name="input", datatype=datatype, shape=[2, 2])
    getattr(tensor.contents, f"{CONTENTS[datatype]}_contents").extend(VALUES[datatype].ravel().tolist())
    result = triton_grpc.InferResult(grpc._client_stub.ModelInfer(request))
    np.testing.assert_array_equal(result.as_numpy("output"), expected(datatype))


@pytest.mark.parametrize("datatype", VALUES)
def test_no_rows_at_all(grpc: Any, http: Any, datatype: str) -> None:
    for module, client in ((triton_grpc, grpc), (triton_http, http)):
        given = module.InferInput("input", [0, 2], datatype)
        given.set_data_from_numpy(VALUES[datatype][:0])
        assert client.infer(f"double_{datatype.lower()}", [given]).as_numpy("output").shape == (0, 2)
