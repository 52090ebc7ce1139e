"""What is served over REST, on which paths."""

from __future__ import annotations

from collections.abc import Sequence
from threading import Semaphore
from typing import Final

from vintner.http_body import Bodies
from vintner.http_docs import Documentation
from vintner.http_embeddings import Embeddings
from vintner.http_generate import Generate
from vintner.http_inference import Inference
from vintner.http_models import Models
from vintner.http_openai import OpenAI
from vintner.http_predict import Predict
from vintner.http_repository import Control
from vintner.http_server import Route
from vintner.http_settings import Settings
from vintner.http_shared_memory import SharedMemory
from vintner.http_v1_models import V1Models
from vintner.json_text import DEFAULT_LIMITS, JsonLimits
from vintner.service import CONTROL_THREADS, MOST_STREAMS, Service

MOST_OTHERS: Final = CONTROL_THREADS // 8
"""Bodies that are read at the same time of requests that run no models, loads and unloads aside."""


def routes(
    service: Service,
    max_request_bytes: int,
    max_bodies: int,
    max_upload_bytes: int = 0,
    json: JsonLimits = DEFAULT_LIMITS,
    documented: bool = True,
) -> Sequence[Route]:
    """Every route, most frequent first: they are tried in this order. So many bodies are read at the same time.

    Without `max_upload_bytes` the body of a load is bounded as any other.
    """
    bodies = Bodies(max_request_bytes, max_bodies, json)
    streams = Semaphore(MOST_STREAMS)
    others = Bodies(max_request_bytes, MOST_OTHERS, turn=bodies.turn)
    return [
        *Inference(service, bodies).routes,
        *Generate(service, bodies, streams).routes,
        *OpenAI(service, bodies, streams).routes,
        *Predict(service, bodies).routes,
        *Embeddings(service, bodies).routes,
        *Models(service).routes,
        *V1Models(service).routes,
        *Control(service, others, max_upload_bytes).routes,
        *SharedMemory(service.regions, others).routes,
        *Settings(service, others).routes,
        *(Documentation().routes if documented else ()),
    ]


def metrics_routes(service: Service) -> Sequence[Route]:
    """What the metrics port answers."""
    return [Models(service).metrics_route]
