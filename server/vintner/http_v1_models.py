"""REST routes that say how models are, as clients of TensorFlow Serving, KServe v1 and OpenAI ask for it.

All three have `/v1/models/NAME`: one reply has the keys of all, and each reads its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from vintner import tfs_view
from vintner.errors import ModelNotReady
from vintner.http_predict import V1_MODEL, chosen_version
from vintner.http_server import JSON, Route, route
from vintner.http_transport import Answer, Environ
from vintner.predict_codec import SIGNATURE
from vintner.service import SERVER_NAME, Service


class V1Models:
    """One method for each operation."""

    def __init__(self, service: Service) -> None:
        self._service = service

    @property
    def routes(self) -> Sequence[Route]:
        return [
            route(rf"{V1_MODEL}/metadata", GET=self.metadata),
            route(V1_MODEL, GET=self.status),
            route(r"/v1/models", GET=self.models),
            route(r"/", GET=self.alive),
        ]

    def alive(self, environ: Environ) -> Answer:
        """What KServe's client asks a server of v1."""
        return 200, (JSON,), b'{"status":"alive"}'

    def models(self, environ: Environ) -> Answer:
        entries = [self._entry(name) for name in self._service.models_ready()]
        return 200, (JSON,), orjson.dumps({"object": "list", "data": entries})

    def _entry(self, name: str) -> dict[str, Any]:
        """A model as OpenAI's API lists it. It has no time of its own; the server's start does not change."""
        return {"id": name, "object": "model", "created": int(self._service.started), "owned_by": SERVER_NAME}

    def status(self, environ: Environ, model: str, version: str, label: str) -> Answer:
        """The states of the versions. That of a whole model is also whether it is ready, which probes ask by its
        status code."""
        chosen = chosen_version(self._service, model, version, label)
        states = self._service.model_states(model, chosen)
        if version or label:
            return 200, (JSON,), orjson.dumps(states)
        reply = {**self._entry(model), **states, "name": model}
        try:
            self._service.check_model(model)
        except ModelNotReady as exc:
            reply |= {"ready": False, "reasons": [exc.message]}
            return 503, (JSON, ("Retry-After", str(exc.retry_after))), orjson.dumps(reply)
        return 200, (JSON,), orjson.dumps(reply | {"ready": True})

    def metadata(self, environ: Environ, model: str, version: str, label: str) -> Answer:
        found = self._service.model_metadata(model, chosen_version(self._service, model, version, label))
        body = tfs_view.metadata(found.name, found.version, found.inputs, found.outputs, SIGNATURE)
        return 200, (JSON,), orjson.dumps(body)
