"""REST routes that say how the server and its models are: health, metadata, configuration, statistics, metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import orjson

from vintner import http_codec as codec
from vintner.errors import ModelNotReady
from vintner.http_server import JSON, MODEL, Route, route
from vintner.http_transport import Answer, Environ
from vintner.service import Service

METRICS: Final = ("Content-Type", "text/plain; version=0.0.4; charset=utf-8")


class Models:
    """One method for each operation."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def routes(self) -> Sequence[Route]:
        return [
            route(r"/v2/health/live", GET=self.live),
            route(r"/v2/health/ready", GET=self.ready),
            route(rf"{MODEL}/ready", GET=self.model_ready),
            route(r"/v2/models/stats", GET=self.all_statistics),
            route(rf"{MODEL}/stats", GET=self.statistics),
            route(rf"{MODEL}/config", GET=self.model_config),
            route(MODEL, GET=self.model_metadata),
            route(r"/v2", GET=self.server_metadata),
            self.metrics_route,
        ]

    @property
    def metrics_route(self) -> Route:
        return route(r"/metrics", GET=self.metrics)

    def live(self, environ: Environ) -> Answer:
        return 200, (JSON,), orjson.dumps({"live": self._service.live()})

    def ready(self, environ: Environ) -> Answer:
        reasons = self._service.readiness()
        if reasons:
            return 503, (JSON, ("Retry-After", "1")), orjson.dumps({"ready": False, "reasons": reasons})
        return 200, (JSON,), b'{"ready":true}'

    def model_ready(self, environ: Environ, model: str, version: str) -> Answer:
        try:
            self._service.check_model(model, version, "rest")
        except ModelNotReady as exc:
            body = {"name": model, "ready": False, "reasons": [exc.message]}
            return 503, (JSON, ("Retry-After", str(exc.retry_after))), orjson.dumps(body)
        return 200, (JSON,), orjson.dumps({"name": model, "ready": True})

    def server_metadata(self, environ: Environ) -> Answer:
        metadata = self._service.server_metadata()
        return 200, (JSON,), codec.server_metadata_json(metadata.name, metadata.version, metadata.extensions)

    def model_metadata(self, environ: Environ, model: str, version: str) -> Answer:
        metadata = self._service.model_metadata(model, version, "rest")
        body = codec.model_metadata_json(
            metadata.name, metadata.versions, metadata.platform, metadata.inputs, metadata.outputs
        )
        return 200, (JSON,), body

    def all_statistics(self, environ: Environ) -> Answer:
        return 200, (JSON,), orjson.dumps(self._service.statistics())

    def statistics(self, environ: Environ, model: str, version: str) -> Answer:
        return 200, (JSON,), orjson.dumps(self._service.statistics(model, version))

    def model_config(self, environ: Environ, model: str, version: str) -> Answer:
        return 200, (JSON,), orjson.dumps(self._service.model_config(model, version))

    def metrics(self, environ: Environ) -> Answer:
        return 200, (METRICS,), self._service.metrics()
