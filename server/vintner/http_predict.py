"""REST routes that run models as TensorFlow Serving and KServe v1 know it: `:predict`, and what is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from vintner.errors import Unsupported, VintnerError
from vintner.http_access_log import VISIT
from vintner.http_body import Bodies
from vintner.http_server import JSON, Begin, Route, error_answer, route
from vintner.http_transport import Answer, Environ
from vintner.predict_codec import decode_predict, encode_predict
from vintner.service import Service
from vintner.turns import Turn, run_here
from vintner.types import Request, Response

V1_MODEL: Final = r"/v1/models/(?P<model>[^/]+)(?:/versions/(?P<version>[^/]+)|/labels/(?P<label>[^/]+))?"
"""As `MODEL`, for the first version of the protocol. A colon in a name is none before a verb: the last one is."""


def chosen_version(service: Service, model: str, version: str, label: str) -> str:
    """The version that a path asks for, "" for the default. Raises NotFound for an unknown label.

    0 is the default too: OpenVINO Model Server's client puts it into the path where its caller names no version.
    """
    if label:
        return service.version_of(model, label)
    return "" if version == "0" else version


class Predict:
    """One method for each operation."""

    def __init__(self, service: Service, bodies: Bodies) -> None:
        self._service = service
        self._bodies = bodies

    @property
    def routes(self) -> Sequence[Route]:
        return [
            route(rf"{V1_MODEL}:predict", POST=self.predict),
            route(rf"{V1_MODEL}:(?P<verb>classify|regress|explain)", POST=self.refuse),
        ]

    def predict(self, environ: Environ, model: str, version: str, label: str) -> Begin:
        def begin(send: Callable[[Answer], None]) -> None:
            run_here(self._submit(environ, model, version, label, send))

        return begin

    def _submit(
        self, environ: Environ, model: str, version: str, label: str, send: Callable[[Answer], None]
    ) -> Turn | None:
        """The place lasts until the values have become tensors."""
        try:
            with self._bodies.one() as place:
                inputs = decode_predict(place.read(environ), model, self._bodies.json)
                chosen = chosen_version(self._service, model, version, label)
                request, in_rows = Request(model, chosen, {}, untyped=inputs), inputs.in_rows
                del inputs
                request.visit = environ.get(VISIT)
                return self._service.submit(request, "rest", lambda result: send(_answer(result, in_rows)))
        except VintnerError as exc:
            self._service.reject(exc, "rest")
            raise

    def refuse(self, environ: Environ, model: str, version: str, label: str, verb: str) -> Answer:
        raise Unsupported(f":{verb} is not supported by this server; :predict is")


def _answer(result: Response | Exception, in_rows: bool) -> Answer:
    if isinstance(result, Exception):
        return error_answer(result)
    try:
        return 200, (JSON,), encode_predict(result, in_rows)
    except Exception as exc:
        return error_answer(exc)
