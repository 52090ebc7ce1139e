"""REST routes that say how models are, as clients of TensorFlow Serving, KServe v1 and OpenAI ask for it.

All three have `/v1/models/NAME`: one reply has the keys of all, and each reads its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import orjson

from vintner import tfs_view
from vintner.errors import ModelNotReady
from vintner.http_predict import V1_MODEL, chosen_version
from vintner.http_server import JSON, Route, route
from vintner.http_transport import Answer, Environ
from vintner.openai_errors import openai_error
from vintner.openai_questions import SEPARATOR
from vintner.predict_codec import SIGNATURE
from vintner.service import SERVER_NAME, Service

ELSEWHERE: Final = r"/(?:openai/v1|v3)"
"""Where only OpenAI's API has models."""


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
            route(rf"{ELSEWHERE}/models", openai_error, GET=self.models),
            route(rf"{ELSEWHERE}/models/(?P<model>[^/]+)", openai_error, GET=self.model),
            route(r"/", GET=self.alive),
        ]

    def alive(self, environ: Environ) -> Answer:
        """What KServe's client asks a server of v1."""
        return 200, (JSON,), b'{"status":"alive"}'

    def models(self, environ: Environ) -> Answer:
        """A language model's adapters are listed behind it, as models of their own."""
        entries = []
        for name in self._service.models_ready():
            adapters = self._service.adapters(name)
            entries += [self._entry(name), *(self._adapter(name, adapter) for adapter in adapters)]
        return 200, (JSON,), orjson.dumps({"object": "list", "data": entries})

    def model(self, environ: Environ, model: str) -> Answer:
        """What OpenAI's API says of one model."""
        adapter = self._named_adapter(model)
        if adapter is None:
            self._service.check_model(model)
        return 200, (JSON,), orjson.dumps(adapter or self._entry(model))

    def _named_adapter(self, name: str) -> dict[str, Any] | None:
        model, _, adapter = name.rpartition(SEPARATOR)
        return self._adapter(model, adapter) if model and adapter in self._service.adapters(model) else None

    def _adapter(self, model: str, adapter: str) -> dict[str, Any]:
        return {**self._entry(f"{model}{SEPARATOR}{adapter}"), "parent": model}

    def _entry(self, name: str) -> dict[str, Any]:
        """A model as OpenAI's API lists it. It has no time of its own; the server's start does not change."""
        return {"id": name, "object": "model", "created": int(self._service.started), "owned_by": SERVER_NAME}

    def status(self, environ: Environ, model: str, version: str, label: str) -> Answer:
        """The states of the versions. That of a whole model is also whether it is ready, which probes ask by its
        status code."""
        adapter = self._named_adapter(model)
        if adapter is not None and not (version or label):
            return 200, (JSON,), orjson.dumps(adapter | {"name": model, "ready": True})
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
