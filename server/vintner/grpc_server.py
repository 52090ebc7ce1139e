"""The gRPC front end: `inference.GRPCInferenceService`, `grpc.health.v1` and server reflection on one port.

Knows the transport; what is done is the service's, how messages look is the codec's. The calls are handled by
grpcio's synchronous server on a lean executor, ModelInfer by the fast path if it can be used. So is what probes ask:
grpcio keeps a thread for each call from its beginning on, and calls whose message never comes would take them all.
Messages are parsed here, so that a malformed one is the client's error and not ours.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from threading import Lock
from typing import Any, Final, Literal, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from vintner import grpc_codec as codec
from vintner import grpc_control, grpc_metadata, grpc_settings, server_reflection
from vintner.control_parameters import NO_REPOSITORIES
from vintner.errors import ConfigError, InvalidArgument, ModelNotReady, NotFound, Unsupported, VintnerError
from vintner.executor import LeanExecutor
from vintner.grpc_access_log import AccessLog, logged_begin, naming, note
from vintner.grpc_connections import THE_CORES, ConnectionSettings, channel_arguments
from vintner.grpc_fast_path import Begin, Call, FastPath, unusable
from vintner.grpc_headings import Headings
from vintner.grpc_shared_memory import SharedMemory
from vintner.grpc_stream import InferStream, Streams
from vintner.pb import grpc_service_pb2 as pb
from vintner.service import Service
from vintner.shared_memory import Part
from vintner.turns import Turn
from vintner.types import Cancellation, Request, Response

logger = logging.getLogger(__name__)

SERVICE_NAME = "inference.GRPCInferenceService"
INFER = f"/{SERVICE_NAME}/ModelInfer"
HEALTH = f"/{health.SERVICE_NAME}/Check"

NO_DEADLINE = 365 * 86400.0
"""Seconds that nobody means: grpcio reports a call without a deadline as one in some centuries."""

PROBES: Final = ("ServerLive", "ServerReady", "ModelReady")
"""Calls that are answered at once, on the fast path too."""

LONGEST_DETAILS = 2500
"""Bytes of UTF-8. Each may take three in the trailer, and clients begin to refuse trailers at 8 KiB."""

ERRORS_END_IT: Final = "triton_grpc_error"
"""Metadata of a stream whose client wants the first error as its status."""

FastPathUse = Literal["auto", "off"]
Handler = Callable[[Any, Any], Message | bytes]
MessageT = TypeVar("MessageT", bound=Message)


class _Health(health.HealthServicer):  # type: ignore[misc]
    """grpcio's, whose watches would last until their clients go away, and so hold up the end of the server."""

    _ending = False

    def probed(self, request: health_pb2.HealthCheckRequest, call: Call) -> Message:
        """As `Check`, with errors as this server's are."""
        with self._lock:
            status = self._server_status.get(request.service)
        if status is None:
            raise NotFound(f"no health is known of a service '{request.service}'")
        answer: Message = health_pb2.HealthCheckResponse(status=status)
        return answer

    def Watch(self, request: Any, context: Any, send_response_callback: Any = None) -> None:  # noqa: N802
        super().Watch(request, context, send_response_callback)
        if self._ending:
            send_response_callback(None)

    def end_watches(self) -> None:
        """Ends the watches there are, and each that begins from now on after its first answer."""
        self._ending = True
        with self._lock:
            watches = [watch for service in self._send_response_callbacks.values() for watch in service]
        for watch in watches:
            watch(None)


class GrpcServer:
    """Its life is three calls: the constructor binds, `start` serves, `stop` drains."""

    def __init__(
        self,
        service: Service,
        *,
        host: str,
        port: int,
        threads: int,
        max_message_bytes: int,
        fast_path: FastPathUse = "auto",
        connections: ConnectionSettings = THE_CORES,
        access_log: bool = False,
    ) -> None:
        """Binds the port; 0 picks a free one, `port` has it then. Raises ConfigError if it cannot be bound."""
        self._service = service
        self._handlers = handlers = _Handlers(service, access_log)
        self._executor = LeanExecutor(threads, "vintner-grpc")
        self._server = grpc.server(
            self._executor,
            interceptors=[AccessLog()] if access_log else [],
            options=channel_arguments(connections, max_message_bytes),
        )
        self._health = _Health(experimental_non_blocking=True)
        self._announcing = Lock()
        self._fast: FastPath | None = None
        if fast_path == "auto" and _usable():
            begins = handlers.fast() | {HEALTH: _at_once(health_pb2.HealthCheckRequest, self._health.probed)}
            if access_log:
                begins = {path: logged_begin(begin, path) for path, begin in begins.items()}
            self._fast = FastPath(self._server, methods=begins)
        self._server.add_generic_rpc_handlers((handlers.generic(),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        server_reflection.enable(self._server, (SERVICE_NAME, health.SERVICE_NAME))
        self.announce_readiness()
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            self.port: int = self._server.add_insecure_port(address)
        except RuntimeError as exc:
            raise ConfigError(f"cannot listen for gRPC on {address}: the port is in use or not allowed") from exc

    def start(self) -> None:
        (self._fast or self._server).start()

    def announce_readiness(self) -> None:
        """Tells `grpc.health.v1`, and whoever watches it, whether the server is ready now. Threads: any."""
        with self._announcing:  # or one that looked first could have the last word
            serving = health_pb2.HealthCheckResponse.SERVING
            status = serving if self._service.ready else health_pb2.HealthCheckResponse.NOT_SERVING
            for name in ("", SERVICE_NAME):
                self._health.set(name, status)

    def stop(self, grace: float) -> None:
        """Refuses new calls, waits up to `grace` seconds for the running ones, then cancels them."""
        self._health.end_watches()
        self._handlers.streams.stop()
        if self._fast:
            self._fast.stop(grace)
        else:
            self._server.stop(grace).wait()
        self._executor.shutdown(wait=False)


def _usable() -> bool:
    reason = unusable()
    if reason is None:
        logger.info("inferences over gRPC take the fast path")
    else:
        logger.warning("inferences over gRPC do without the fast path: %s", reason)
    return reason is None


class _CallCancellation(Cancellation):
    """A call's cancellation. grpcio is asked to tell only once somebody wants to know: most calls never wait."""

    __slots__ = ("_context",)

    def __init__(self, context: Any) -> None:
        super().__init__()
        self._context = context

    def on_cancel(self, callback: Callable[[], None] | None) -> None:
        if callback is not None and not self._context.add_callback(self.cancel):
            self.cancelled = True
        super().on_cancel(callback)


class _Handlers:
    """One method for each RPC that is served; the others answer UNIMPLEMENTED by themselves."""

    def __init__(self, service: Service, access_log: bool) -> None:
        self._service = service
        self._logs_access = access_log
        self._headings = Headings()
        self.streams = Streams()

    def generic(self) -> Any:
        handlers = {
            name: grpc.unary_unary_rpc_method_handler(_answer(message, handler))
            for name, (message, handler) in self._methods().items()
        }
        handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(self.model_stream_infer)
        return grpc.method_handlers_generic_handler(SERVICE_NAME, handlers)

    def fast(self) -> dict[str, Begin]:
        """What begins the calls of the fast path."""
        methods = self._methods()
        probes: dict[str, Begin] = {f"/{SERVICE_NAME}/{name}": _at_once(*methods[name]) for name in PROBES}
        return {INFER: self.begin_infer, **probes}

    def _methods(self) -> dict[str, tuple[type[Message], Handler]]:
        methods: dict[str, tuple[type[Message], Handler]] = {
            "ServerLive": (pb.ServerLiveRequest, self.server_live),
            "ServerReady": (pb.ServerReadyRequest, self.server_ready),
            "ModelReady": (pb.ModelReadyRequest, self.model_ready),
            "ServerMetadata": (pb.ServerMetadataRequest, self.server_metadata),
            "ModelMetadata": (pb.ModelMetadataRequest, self.model_metadata),
            "ModelInfer": (pb.ModelInferRequest, self.model_infer),
            "ModelStatistics": (pb.ModelStatisticsRequest, self.model_statistics),
            "ModelConfig": (pb.ModelConfigRequest, self.model_config),
            "RepositoryIndex": (pb.RepositoryIndexRequest, self.repository_index),
            "RepositoryModelLoad": (pb.RepositoryModelLoadRequest, self.load),
            "RepositoryModelUnload": (pb.RepositoryModelUnloadRequest, self.unload),
            **SharedMemory(self._service.regions).methods,
            "LogSettings": (pb.LogSettingsRequest, self.log_settings),
            "TraceSetting": (pb.TraceSettingRequest, self.trace_setting),
        }
        if not self._logs_access:
            return methods
        return {name: (message, naming(handler)) for name, (message, handler) in methods.items()}

    def server_live(self, request: pb.ServerLiveRequest, context: Any) -> Message:
        return pb.ServerLiveResponse(live=self._service.live())

    def server_ready(self, request: pb.ServerReadyRequest, context: Any) -> Message:
        return pb.ServerReadyResponse(ready=self._service.ready)

    def model_ready(self, request: pb.ModelReadyRequest, context: Any) -> Message:
        try:
            self._service.check_model(request.name, request.version, "grpc")
        except ModelNotReady:
            return pb.ModelReadyResponse(ready=False)
        return pb.ModelReadyResponse(ready=True)

    def server_metadata(self, request: pb.ServerMetadataRequest, context: Any) -> Message:
        return grpc_metadata.encode_server_metadata(self._service.server_metadata())

    def model_metadata(self, request: pb.ModelMetadataRequest, context: Any) -> Message:
        return grpc_metadata.encode_model_metadata(self._service.model_metadata(request.name, request.version, "grpc"))

    def model_statistics(self, request: pb.ModelStatisticsRequest, context: Any) -> Message:
        return grpc_metadata.encode_statistics(self._service.statistics(request.name, request.version))

    def model_config(self, request: pb.ModelConfigRequest, context: Any) -> Message:
        return grpc_metadata.encode_model_config(self._service.model_config(request.name, request.version))

    def repository_index(self, request: pb.RepositoryIndexRequest, context: Any) -> Message:
        if request.repository_name:
            raise Unsupported(NO_REPOSITORIES)
        return grpc_control.encode_index(self._service.repository_index(request.ready))

    def load(self, request: pb.RepositoryModelLoadRequest, context: Any) -> Message:
        with self._service.one_control_call():
            self._service.load_model(grpc_control.controlled_model(request), grpc_control.decode_control(request))
        return pb.RepositoryModelLoadResponse()

    def unload(self, request: pb.RepositoryModelUnloadRequest, context: Any) -> Message:
        with self._service.one_control_call():
            self._service.unload_model(grpc_control.controlled_model(request), grpc_control.decode_control(request))
        return pb.RepositoryModelUnloadResponse()

    def log_settings(self, request: pb.LogSettingsRequest, context: Any) -> Message:
        return grpc_settings.encode_log(self._service.log_settings(grpc_settings.decode_log(request)))

    def trace_setting(self, request: pb.TraceSettingRequest, context: Any) -> Message:
        held = self._service.trace_settings(grpc_settings.decode_trace(request), request.model_name)
        return grpc_settings.encode_trace(held)

    def model_infer(self, message: pb.ModelInferRequest, context: Any) -> bytes:
        """ModelInfer by way of grpcio's server: the thread of the call waits for the answer."""
        request, places = self._decoded(message, context)
        return codec.encode_infer(self._service.infer(self._of_call(request, context), "grpc"), places)

    def model_stream_infer(self, received: Iterator[bytes], context: Any) -> Iterator[bytes]:
        metadata = dict(context.invocation_metadata())
        stream = InferStream(
            self._service,
            self._read,
            _deadline(context),
            lambda error: _status(error)[1],
            errors_end_it=metadata.get(ERRORS_END_IT) == "true",
        )
        try:
            with self.streams.opened(stream):
                if context.add_callback(stream.cancel):
                    yield from stream.messages(received)
        except Exception as exc:
            code, details = _status(exc)
            context.set_code(code)
            context.set_details(details)

    def begin_infer(self, data: bytes, call: Call) -> Turn | None:
        """ModelInfer by way of the fast path: whoever has the answer sends it."""
        try:
            request, places = self._read(data, call)
        except Exception as exc:
            call.fail(*_status(exc))
            return None
        return self._service.submit(self._of_call(request, call), "grpc", lambda result: _end(call, result, places))

    def _read(self, data: bytes, context: Any = None) -> tuple[Request, Mapping[str, Part]]:
        """As `_decoded`, of the bytes of a message, which need not be parsed if its heading was seen before."""
        known = self._headings.decode(data)
        if known is not None:
            return known, codec.NO_PLACES
        message = _parsed(pb.ModelInferRequest, data)
        request, places = self._decoded(message, context)
        self._headings.learn(data, message, request)
        return request, places

    def _decoded(self, message: pb.ModelInferRequest, context: Any = None) -> tuple[Request, Mapping[str, Part]]:
        """The request, and where in shared memory its outputs go. `context` is that of a call of its own."""
        regions = self._service.regions
        try:
            request = codec.decode_infer(message, regions)
            return request, codec.decode_places(message, regions) if message.outputs else codec.NO_PLACES
        except VintnerError as exc:
            if self._logs_access and context is not None:
                note(context.visit, message)
            self._service.reject(exc, "grpc")
            raise

    def _of_call(self, request: Request, context: Any) -> Request:
        """The request with the deadline and the cancellation of its call."""
        request.deadline = _deadline(context)
        request.cancellation = _CallCancellation(context)
        if self._logs_access:
            request.visit = context.visit
        return request


def _deadline(context: Any) -> float | None:
    """In seconds of `time.monotonic`."""
    remaining = context.time_remaining()
    return time.monotonic() + remaining if remaining is not None and remaining < NO_DEADLINE else None


def _end(call: Call, result: Response | Exception, places: Mapping[str, Part]) -> None:
    if isinstance(result, Exception):
        call.fail(*_status(result))
        return
    try:
        answer = codec.encode_infer(result, places)
    except Exception as exc:
        call.fail(*_status(exc))
    else:
        call.answer(answer)


def _status(error: Exception) -> tuple[grpc.StatusCode, str]:
    """What a client is told. Details are cut to what it will take, for they may repeat a name of any length."""
    if not isinstance(error, VintnerError):
        logger.error("a call failed", exc_info=error)
        return grpc.StatusCode.INTERNAL, "internal error; the server's log has the details"
    details = error.message.encode(errors="replace")[:LONGEST_DETAILS].decode(errors="ignore")
    return grpc.StatusCode[error.code], details


def _parsed(message: type[MessageT], data: bytes) -> MessageT:
    try:
        return message.FromString(data)
    except DecodeError as exc:
        raise InvalidArgument(f"the request is no valid {message.DESCRIPTOR.full_name}: {exc}") from exc


def _serialized(reply: Message | bytes) -> bytes:
    return reply if isinstance(reply, bytes) else reply.SerializeToString()


def _at_once(message: type[Message], handler: Handler) -> Begin:
    """As `_answer`, on the fast path, for what does not block."""

    def begin(data: bytes, call: Call) -> None:
        try:
            reply = _serialized(handler(_parsed(message, data), call))
        except Exception as exc:
            call.fail(*_status(exc))
        else:
            call.answer(reply)

    return begin


def _answer(message: type[Message], handler: Handler) -> Callable[[bytes, Any], bytes]:
    """Parses, handles, serialises, and turns errors into a status."""

    def answer(data: bytes, context: Any) -> bytes:
        try:
            return _serialized(handler(_parsed(message, data), context))
        except Exception as exc:
            code, details = _status(exc)
            context.set_code(code)
            context.set_details(details)
        return b""

    return answer
