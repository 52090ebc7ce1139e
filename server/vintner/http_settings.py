"""REST routes of Triton's log and trace settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from vintner.errors import InvalidArgument
from vintner.http_body import Bodies
from vintner.http_server import JSON, Route, route
from vintner.http_transport import Answer, Environ
from vintner.json_text import parse_object
from vintner.service import Service


class Settings:
    """One method for each operation. A POST without a body changes nothing."""

    def __init__(self, service: Service, bodies: Bodies) -> None:
        self._service = service
        self._bodies = bodies

    @property
    def routes(self) -> Sequence[Route]:
        model = r"(?:/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+))?)?"
        return [
            route(r"/v2/logging", GET=self.log, POST=self.change_log),
            route(rf"/v2{model}/trace/setting", GET=self.trace, POST=self.change_trace),
        ]

    def log(self, environ: Environ) -> Answer:
        return 200, (JSON,), orjson.dumps(self._service.log_settings({}))

    def change_log(self, environ: Environ) -> Answer:
        return 200, (JSON,), orjson.dumps(self._service.log_settings(self._changes(environ)))

    def trace(self, environ: Environ, model: str, version: str) -> Answer:
        return self._trace({}, model, version)

    def change_trace(self, environ: Environ, model: str, version: str) -> Answer:
        changes = {name: _texts(name, value) for name, value in self._changes(environ).items()}
        return self._trace(changes, model, version)

    def _trace(self, changes: Mapping[str, Sequence[str]], model: str, version: str) -> Answer:
        held = self._service.trace_settings(changes, model, version)
        document = {name: values if name == "trace_level" else values[0] for name, values in held.items()}
        return 200, (JSON,), orjson.dumps(document)

    def _changes(self, environ: Environ) -> Mapping[str, Any]:
        with self._bodies.one() as place:
            body = place.read(environ)
            return parse_object(body, refusal="expected a JSON object of settings") if body.strip() else {}


def _texts(name: str, value: Any) -> Sequence[str]:
    """A trace setting's values: a string, a list of such, or null for the default."""
    values: list[Any] = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) for each in values):
        raise InvalidArgument(f"trace setting '{name}': expected strings, got {value!r:.60}")
    return values
