"""A bare synchronous grpcio server: decodes a ModelInfer request, encodes a reply of the shape of Vintner's, no more.

It is grpcio as it comes: `grpc.server` with a `ThreadPoolExecutor`, no interceptors, default options but for message
size. Says `ready grpc=HOST:PORT`, then answers each line on its standard input with `served N`. Run by `servers.py`.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

import grpc
from tritonclient.grpc import service_pb2

REPLY_BYTES = 16
"""Four FP32 values, which is what the measured models answer."""


class Echo:
    """Answers with the beginning of what it was sent. `_lock` guards the count."""

    def __init__(self, output: str) -> None:
        self._output = output
        self._lock = Lock()
        self.served = 0

    def infer(self, request: service_pb2.ModelInferRequest, _: grpc.ServicerContext) -> service_pb2.ModelInferResponse:
        response = service_pb2.ModelInferResponse(
            model_name=request.model_name,
            model_version="1",
            id=request.id,
            raw_output_contents=[request.raw_input_contents[0][:REPLY_BYTES]],
        )
        response.outputs.add(name=self._output, datatype="FP32", shape=[1, 4])
        with self._lock:
            self.served += 1
        return response


def main(output: str) -> None:
    echo = Echo(output)
    handler = grpc.unary_unary_rpc_method_handler(
        echo.infer,
        request_deserializer=service_pb2.ModelInferRequest.FromString,
        response_serializer=service_pb2.ModelInferResponse.SerializeToString,
    )
    server = grpc.server(ThreadPoolExecutor(), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers(
        [grpc.method_handlers_generic_handler("inference.GRPCInferenceService", {"ModelInfer": handler})]
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(f"ready grpc=127.0.0.1:{port}", flush=True)
    for _ in sys.stdin:
        print(f"served {echo.served}", flush=True)
    server.stop(None)


if __name__ == "__main__":
    main(sys.argv[1])
