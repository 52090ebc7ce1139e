"""REST routes that change what is served: Triton's model repository extension, OpenVINO Model Server's reload."""

from __future__ import annotations

from collections.abc import Sequence

import orjson

from vintner import http_control
from vintner.control_parameters import NO_REPOSITORIES
from vintner.errors import TooLarge, Unsupported
from vintner.http_body import Bodies, Place
from vintner.http_server import JSON, Route, route
from vintner.http_transport import Answer, Environ
from vintner.model_control import MOST_CALLS
from vintner.service import Service


class Control:
    """One method for each operation."""

    def __init__(self, service: Service, bodies: Bodies, max_upload_bytes: int = 0) -> None:
        """Without `max_upload_bytes` the body of a load is bounded as any other."""
        self._service = service
        self._bodies = bodies
        self._loads = Bodies(bodies.limit, MOST_CALLS, turn=bodies.turn)
        self._upload_limit = max_upload_bytes

    @property
    def routes(self) -> Sequence[Route]:
        models = "/v2/repository/models/(?P<model>[^/]+)"
        return [
            route(r"/v2/repository/index", POST=self.repository_index),
            route(rf"{models}/load", POST=self.load),
            route(rf"{models}/unload", POST=self.unload),
            route(r"/v2/repository/[^/]+/(?:index|models/[^/]+/(?:load|unload))", POST=self.refuse_repository_name),
            route(r"/v1/config", GET=self.version_states),
            route(r"/v1/config/reload", POST=self.reload),
        ]

    def refuse_repository_name(self, environ: Environ) -> Answer:
        raise Unsupported(NO_REPOSITORIES)

    def repository_index(self, environ: Environ) -> Answer:
        with self._bodies.one() as place:
            ready_only = http_control.decode_index(place.read(environ))
        return 200, (JSON,), http_control.encode_index(self._service.repository_index(ready_only))

    def load(self, environ: Environ, model: str) -> Answer:
        with self._service.one_control_call():
            with self._loads.one() as place:
                parameters = http_control.decode_parameters(self._read_upload(environ, place))
            self._service.load_model(model, parameters)
        return 200, (JSON,), b"{}"

    def _read_upload(self, environ: Environ, place: Place) -> bytes:
        if not self._upload_limit:
            return place.read(environ)
        limit = http_control.largest_body(self._upload_limit, self._bodies.limit)
        try:
            return place.read(environ, limit)
        except TooLarge as exc:
            raise TooLarge(f"the body of a load is larger than {limit} bytes (--max-upload-bytes, in base64)") from exc

    def unload(self, environ: Environ, model: str) -> Answer:
        with self._service.one_control_call():
            with self._loads.one() as place:
                parameters = http_control.decode_parameters(place.read(environ))
            self._service.unload_model(model, parameters)
        return 200, (JSON,), b"{}"

    def version_states(self, environ: Environ) -> Answer:
        return 200, (JSON,), orjson.dumps(self._service.version_states())

    def reload(self, environ: Environ) -> Answer:
        status = 201 if self._service.reload() else 200
        return status, (JSON,), orjson.dumps(self._service.version_states())
