"""REST routes of embedding models and rerankers: OpenAI's `embeddings`, and `rerank` as Jina and Cohere have it.

The models are ordinary ones, so what is here makes inferences of a request: texts of about the same length together,
which leaves little padding, and no more at a time than the model takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

import numpy as np

from vintner.embeddings_codec import TOKENS, Asked, Texts, decode_embeddings, decode_rerank
from vintner.errors import ContextExceeded, VintnerError
from vintner.http_access_log import VISIT
from vintner.http_body import Bodies
from vintner.http_server import JSON, Begin, Route
from vintner.http_transport import Answer, Environ
from vintner.openai_errors import openai_error
from vintner.openai_request import Parameters
from vintner.openai_routes import openai_route, read_parameters
from vintner.service import Service
from vintner.spread import Spread
from vintner.turns import run_here
from vintner.types import Array, Request, Response

TOGETHER: Final = 32
"""Texts of a request that are one inference."""

Send = Callable[[Answer], None]


class Embeddings:
    """One method for each operation."""

    def __init__(self, service: Service, bodies: Bodies) -> None:
        self._service = service
        self._bodies = bodies

    @property
    def routes(self) -> Sequence[Route]:
        return [
            openai_route("/embeddings", POST=self.embeddings),
            openai_route("/rerank", POST=self.rerank),
        ]

    def embeddings(self, environ: Environ) -> Begin:
        return self._begin(environ, decode_embeddings)

    def rerank(self, environ: Environ) -> Begin:
        return self._begin(environ, decode_rerank)

    def _begin(self, environ: Environ, decode: Callable[[Parameters], Asked]) -> Begin:
        try:
            with self._bodies.one() as place:
                asked = decode(read_parameters(environ, place, self._bodies))
            columns = asked.columns
            parts = self._parts(asked.model, columns)
        except VintnerError as exc:
            self._service.reject(exc, "rest")
            raise
        make = [
            partial(_request, asked, {name: column[part] for name, column in columns.items()}, environ)
            for part in parts
        ]

        def begin(send: Send) -> None:
            if len(make) == 1:
                done = partial(_answer, asked, parts, send)
                run_here(self._service.submit(make[0](), "rest", lambda result: done(_listed(result))))
            else:
                Spread(self._service, make, partial(_answer, asked, parts, send)).run()

        return begin

    def _parts(self, model: str, columns: Mapping[str, Array]) -> Sequence[Array]:
        """Which texts are run together: indices of each part, the shortest texts first."""
        *_, column = columns.values()
        if len(column) == 1:
            return [np.arange(1)]
        order = np.argsort(np.fromiter(map(len, column), np.int64, len(column)), kind="stable")
        most = min(TOGETHER, self._service.row_limit(model) or TOGETHER)
        return [order[start : start + most] for start in range(0, len(order), most)]


def _request(asked: Asked, columns: dict[str, Array], environ: Environ) -> Request:
    texts = Texts(columns, asked.kind)
    return Request(asked.model, "", {}, (asked.output, TOKENS), untyped=texts, visit=environ.get(VISIT))


def _listed(result: Response | Exception) -> Sequence[Response] | Exception:
    return result if isinstance(result, Exception) else [result]


def _answer(asked: Asked, parts: Sequence[Array], send: Send, result: Sequence[Response] | Exception) -> None:
    """Sends what came of the parts, in the order in which the texts were sent."""
    try:
        if isinstance(result, Exception):
            if isinstance(result, ContextExceeded):
                result.param = result.param or asked.param
            raise result
        found = np.concatenate([response.outputs[asked.output].array for response in result])
        ordered = np.empty_like(found)
        ordered[np.concatenate(parts)] = found
        tokens = sum(int(response.outputs[TOKENS].array.sum()) for response in result)
        answer: Answer = 200, (JSON,), asked.answer(ordered, tokens)
    except Exception as exc:
        answer = openai_error(exc)
    send(answer)
