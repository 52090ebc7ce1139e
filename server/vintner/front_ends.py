"""The three ports of a server, for REST, gRPC and metrics, as its options want them.

Knows the options and the service, and nothing of what is served. To be imported once the environment is as grpc is to
find it. Invariant: the constructor binds all of them, or raises.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from threading import Thread

from vintner.config import ServerConfig
from vintner.grpc_connections import ConnectionSettings
from vintner.grpc_server import GrpcServer
from vintner.http_access_log import logged
from vintner.http_routes import metrics_routes, routes
from vintner.http_server import HttpFrontEnd, Route
from vintner.http_transport import Handler, HttpTransport
from vintner.json_text import JsonLimits
from vintner.service import CONTROL_THREADS, MOST_STREAMS, Service


class FrontEnds:
    """Their life is three calls: the constructor binds, `start` serves, `stop` drains."""

    def __init__(self, config: ServerConfig, service: Service) -> None:
        """Raises ConfigError if a port cannot be bound."""
        threads = config.max_concurrent_requests + CONTROL_THREADS + MOST_STREAMS
        self._host = config.host
        self._http = HttpTransport(
            _handler(config, _routes(config, service)),
            host=config.host,
            port=config.http_port,
            threads=threads,
            purpose="REST",
            header_seconds=config.http_header_timeout_seconds,
            body_seconds=config.http_body_timeout_seconds,
        )
        self._metrics = HttpTransport(
            _handler(config, metrics_routes(service)),
            host=config.host,
            port=config.metrics_port,
            threads=2,
            purpose="metrics",
        )
        self._grpc = GrpcServer(
            service,
            host=config.host,
            port=config.grpc_port,
            threads=threads,
            max_message_bytes=config.max_message_bytes,
            fast_path=config.grpc_fast_path,
            connections=_connections(config),
            access_log=config.access_log,
        )
        self.announce_readiness = self._grpc.announce_readiness

    @property
    def bound(self) -> str:
        """The ports, as the ready line has them."""
        ports = {"http": self._http.port, "grpc": self._grpc.port, "metrics": self._metrics.port}
        return " ".join(f"{name}={self._host}:{port}" for name, port in ports.items())

    def start(self) -> None:
        self._http.start()
        self._metrics.start()
        self._grpc.start()

    def stop(self, deadline: float) -> bool:
        """Accepts nothing more, and returns when all that runs was answered; False if that was not so by the deadline,
        of `time.monotonic`."""
        return _all_within(
            deadline,
            self._http.stop,
            self._metrics.stop,
            lambda: self._grpc.stop(max(0.0, deadline - time.monotonic())),
        )


def _routes(config: ServerConfig, service: Service) -> Sequence[Route]:
    return routes(
        service,
        config.max_request_bytes,
        config.max_concurrent_requests,
        config.max_upload_bytes if config.allow_model_upload else 0,
        JsonLimits(config.max_json_nesting, config.max_json_keys, config.max_json_outputs, config.max_json_arrays),
        documented=config.http_docs,
    )


def _handler(config: ServerConfig, table: Sequence[Route]) -> Handler:
    handler = HttpFrontEnd(table)
    return logged(handler) if config.access_log else handler


def _connections(config: ServerConfig) -> ConnectionSettings:
    return ConnectionSettings(
        response_compression=config.grpc_response_compression,
        keepalive=config.grpc_keepalive_seconds,
        keepalive_timeout=config.grpc_keepalive_timeout_seconds,
        keepalive_without_calls=config.grpc_keepalive_permit_without_calls,
        min_ping_interval=config.grpc_min_ping_interval_seconds,
        max_ping_strikes=config.grpc_max_ping_strikes,
        max_age=config.grpc_max_connection_age_seconds,
        max_age_grace=config.grpc_max_connection_age_grace_seconds,
    )


def _all_within(deadline: float, *stops: Callable[[], None]) -> bool:
    """Runs the functions side by side. False if one had not returned by the deadline."""
    threads = [Thread(target=stop, daemon=True) for stop in stops]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in threads)
