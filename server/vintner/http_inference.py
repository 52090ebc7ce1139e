"""REST routes that run models."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vintner import http_codec as codec
from vintner.errors import VintnerError
from vintner.http_access_log import VISIT
from vintner.http_body import Bodies, Place, plain_size, read_exactly
from vintner.http_raw import decode_raw_request
from vintner.http_server import MODEL, Begin, Route, error_answer, route
from vintner.http_transport import Answer, Environ
from vintner.service import Service
from vintner.turns import run_here
from vintner.types import Response


class Inference:
    """One method for each operation."""

    def __init__(self, service: Service, bodies: Bodies) -> None:
        self._service = service
        self._bodies = bodies

    @property
    def routes(self) -> Sequence[Route]:
        return [route(rf"{MODEL}/infer", POST=self.infer)]

    def infer(self, environ: Environ, model: str, version: str) -> Begin:
        try:
            with self._bodies.one() as place:
                text, blobs = self._read_parts(environ, place)
                decoded = self._decode(text, blobs, model, version)
        except VintnerError as exc:
            self._service.reject(exc, "rest")
            raise

        decoded.request.visit = environ.get(VISIT)

        def begin(send: Callable[[Answer], None]) -> None:
            run_here(self._service.submit(decoded.request, "rest", lambda result: send(_infer_answer(result, decoded))))

        return begin

    def _decode(self, text: bytes | None, blobs: bytes, model: str, version: str) -> codec.DecodedRequest:
        if text is None:
            return decode_raw_request(blobs, self._service.model_metadata(model, version).inputs, model, version)
        return codec.decode_infer(text, blobs, model, version, self._bodies.json, self._service.regions)

    def _read_parts(self, environ: Environ, place: Place) -> tuple[bytes | None, bytes]:
        """The JSON of an `infer` request, None for a raw binary one, and the bytes of tensors that follow it."""
        header_length = environ.get("HTTP_INFERENCE_HEADER_CONTENT_LENGTH")
        if header_length is None:
            return place.read(environ), b""
        size = plain_size(environ, self._bodies.limit)
        if size is not None:
            json_size = codec.json_size(header_length, size)
            text = read_exactly(environ, json_size) if json_size else None
            blobs = read_exactly(environ, size - json_size)
            place.expect(json_size)
            return text, blobs
        body = place.read(environ)
        json_size = codec.json_size(header_length, len(body))
        return body[:json_size] if json_size else None, body[json_size:]


def _infer_answer(result: Response | Exception, decoded: codec.DecodedRequest) -> Answer:
    if isinstance(result, Exception):
        return error_answer(result)
    try:
        headers, body = codec.encode_infer(result, decoded)
    except Exception as exc:
        return error_answer(exc)
    return 200, headers, body
